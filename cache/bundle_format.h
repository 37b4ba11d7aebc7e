// The constants of BUNDLE.md, and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace liger {

inline constexpr std::string_view kBundleMagic = "LIGERBDL";
inline constexpr std::string_view kBundleSuffix = ".ljb";
inline constexpr uint32_t kBundleSchema = 1;

// Where each field of the header stands. Magic and schema stand where those of an entry do.
inline constexpr size_t kBundleHeaderLengthAt = 12;
inline constexpr size_t kRecordCountAt = 16;
inline constexpr size_t kProvenanceLengthAt = 24;
inline constexpr size_t kFileLengthAt = 32;
// SHA-256 of the bytes before it and of all before the frames.
inline constexpr size_t kManifestAt = 40;
inline constexpr size_t kBundleHeaderBytes = 72;

// Where each field of a record stands.
inline constexpr size_t kShelfAt = 0;
inline constexpr size_t kKeyHashAt = 1;  // most significant byte first, as in the entry's file name
inline constexpr size_t kFrameLengthAt = 17;
inline constexpr size_t kEntryLengthAt = 25;
inline constexpr size_t kFrameSha256At = 33;
inline constexpr size_t kRecordBytes = 65;

// More than this is refused before any memory is taken for it.
inline constexpr uint64_t kMostBundleBytes = uint64_t{1} << 30;
inline constexpr uint64_t kMostProvenanceBytes = uint64_t{64} << 10;
inline constexpr uint64_t kMostEntryBytes = uint64_t{64} << 20;
inline constexpr uint64_t kMostUnpackedBytes = uint64_t{4} << 30;  // of all entries together
inline constexpr uint64_t kMostRatio = 1024;  // of an entry to its frame; kernels shrink tenfold

// Frames are small and written once, so the time of a high level is well spent.
inline constexpr int kCompressionLevel = 19;

}  // namespace liger
