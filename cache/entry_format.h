// The constants of FORMAT.md, and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace liger {

inline constexpr std::string_view entry_magic = "LIGERJIT";
inline constexpr uint32_t entry_schema = 1;

// Where each field of the header stands.
inline constexpr size_t magic_at = 0;
inline constexpr size_t schema_at = 8;
inline constexpr size_t header_length_at = 12;
inline constexpr size_t key_length_at = 16;
inline constexpr size_t meta_length_at = 24;
inline constexpr size_t payload_length_at = 32;
inline constexpr size_t body_hash_at = 40;    // XXH3-128 of all that follows the header: low, high
inline constexpr size_t header_hash_at = 56;  // XXH3-64 of the header's bytes before it
inline constexpr size_t header_bytes = 64;

// A new schema takes a new folder, so that old and new versions of the library live side by side.
inline constexpr std::string_view schema_folder = "v1";
inline constexpr std::string_view artifact_folder = "a";
inline constexpr std::string_view tune_folder = "t";
inline constexpr std::string_view quarantine_folder = "q";
inline constexpr std::string_view artifact_suffix = ".ljk";
inline constexpr std::string_view tune_suffix = ".ljt";

}  // namespace liger
