// The constants of FORMAT.md, and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace liger {

inline constexpr std::string_view kEntryMagic = "LIGERJIT";
inline constexpr uint32_t kEntrySchema = 1;

// Where each field of the header stands.
inline constexpr size_t kMagicAt = 0;
inline constexpr size_t kSchemaAt = 8;
inline constexpr size_t kHeaderLengthAt = 12;
inline constexpr size_t kKeyLengthAt = 16;
inline constexpr size_t kMetaLengthAt = 24;
inline constexpr size_t kPayloadLengthAt = 32;
inline constexpr size_t kBodyHashAt = 40;    // XXH3-128 of all that follows the header: low, high
inline constexpr size_t kHeaderHashAt = 56;  // XXH3-64 of the header's bytes before it
inline constexpr size_t kHeaderBytes = 64;

// A new schema takes a new folder, so that old and new versions of the library live side by side.
inline constexpr std::string_view kSchemaFolder = "v1";
inline constexpr std::string_view kArtifactFolder = "a";
inline constexpr std::string_view kTuneFolder = "t";
inline constexpr std::string_view kQuarantineFolder = "q";
inline constexpr std::string_view kArtifactSuffix = ".ljk";
inline constexpr std::string_view kTuneSuffix = ".ljt";

}  // namespace liger
