// Where AMD's HIP runtime and hipRTC may lie.
#pragma once

#include <string>
#include <vector>

namespace liger {

std::vector<std::string> hip_runtime_candidates();
std::vector<std::string> hiprtc_candidates();  // some releases keep it in a library of its own

}  // namespace liger
