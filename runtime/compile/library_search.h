// Where vendors' libraries lie when no toolkit is installed: already in the process, or in the
// Python packages beside this one.
#pragma once

#include <string>
#include <vector>

namespace liger {

// Paths of the libraries in this process whose file names start with `prefix`.
std::vector<std::string> loaded_libraries(const std::string& prefix);

// Those of `relative_paths` that exist below a folder above this library or above a loaded libtorch
// (site-packages is one of these).
std::vector<std::string> packaged_libraries(const std::vector<std::string>& relative_paths);

// Paths of each list in order, each once.
std::vector<std::string> joined(const std::vector<std::vector<std::string>>& lists);

}  // namespace liger
