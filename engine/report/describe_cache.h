// What `liger-jit cache` does, with its answers as JSON.
#pragma once

#include <string>
#include <vector>

namespace liger {

// ls, clear, sweep or repair.
std::string describe_cache(const std::string& action);

// Every entry whose name (`a/<32 hex>`) or hash starts with this, with its whole key; the times of
// a tune record as text.
std::string describe_entries(const std::string& name);

// `most_size`: 500M, 2G; empty for that of the environment. Raises Error(invalid_argument).
std::string prune_cache(const std::string& most_size);

// Writes the entries of these names, from whatever layer has them, as one file. The provenance is
// `provenance` (`name=value` lines) and what the entries tell: compilers and targets. Raises
// Error(invalid_argument) if an entry is in no layer or the file cannot be written.
std::string export_bundle(const std::string& path, const std::vector<std::string>& names,
                          const std::string& provenance);

std::string import_bundle(const std::string& path);

}  // namespace liger
