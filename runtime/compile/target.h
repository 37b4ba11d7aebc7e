// Which machine code to make: a backend and the exact architecture.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace liger {

enum class Backend : uint8_t { cuda, hip, cpu };

struct Target {
  Backend backend = Backend::cpu;
  std::string arch;  // sm_90a; gfx90a or gfx90a:sramecc+:xnack-; x86-64-v4
  bool operator==(const Target&) const = default;
};

// "sm_90a", "gfx1030", "cpu" (this machine's level, found by CPUID) or a named level such as
// "x86-64-v3". Anything else raises Error(invalid_argument) listing what is allowed.
Target parse_target(std::string_view text);

std::string_view name_of(Backend backend);

// Levels of CPUs whose code a CPU of this one runs, its own first; none for a GPU.
std::vector<std::string> levels_run_by(const Target& target);

// 90 for sm_90a; 0 for what is not CUDA.
int compute_capability(const Target& target);

}  // namespace liger
