// The constants of BUNDLE.md, and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace liger {

inline constexpr std::string_view bundle_magic = "LIGERBDL";
inline constexpr std::string_view bundle_suffix = ".ljb";
inline constexpr uint32_t bundle_schema = 1;

// Where each field of the header stands. Magic and schema stand where those of an entry do.
inline constexpr size_t bundle_header_length_at = 12;
inline constexpr size_t record_count_at = 16;
inline constexpr size_t provenance_length_at = 24;
inline constexpr size_t file_length_at = 32;
// SHA-256 of the bytes before it and of all before the frames.
inline constexpr size_t manifest_at = 40;
inline constexpr size_t bundle_header_bytes = 72;

// Where each field of a record stands.
inline constexpr size_t kind_at = 0;
inline constexpr size_t key_hash_at =
    1;  // most significant byte first, as in the entry's file name
inline constexpr size_t frame_length_at = 17;
inline constexpr size_t entry_length_at = 25;
inline constexpr size_t frame_sha256_at = 33;
inline constexpr size_t record_bytes = 65;

// More than this is refused before any memory is taken for it.
inline constexpr uint64_t most_bundle_bytes = uint64_t{1} << 30;
inline constexpr uint64_t most_provenance_bytes = uint64_t{64} << 10;
inline constexpr uint64_t most_entry_bytes = uint64_t{64} << 20;
inline constexpr uint64_t most_unpacked_bytes = uint64_t{4} << 30;  // of all entries together
inline constexpr uint64_t most_ratio = 1024;  // of an entry to its frame; kernels shrink tenfold

// Frames are small and written once, so the time of a high level is well spent.
inline constexpr int compression_level = 19;

}  // namespace liger
