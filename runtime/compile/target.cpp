#include "runtime/compile/target.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "base/error.h"
#include "base/text.h"

namespace liger {
namespace {

// Of those of x86 each runs the code of those before it, and of those after it none.
constexpr std::array<std::string_view, 5> cpu_levels = {"x86-64", "x86-64-v2", "x86-64-v3",
                                                        "x86-64-v4", "armv8-a"};

// A level and not the machine's exact features: entries are shared between like machines.
std::string_view this_cpu() {
#if defined(__x86_64__) && defined(__clang__) && __clang_major__ < 16
  // It knows no levels by name: the features that set each apart from the one below.
  const bool v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const bool v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  return v4 ? "x86-64-v4" : v3 ? "x86-64-v3" : v2 ? "x86-64-v2" : "x86-64";
#elif defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3";
  if (__builtin_cpu_supports("x86-64-v2")) return "x86-64-v2";
  return "x86-64";
#elif defined(__aarch64__)
  return "armv8-a";
#else
#error "liger_jit knows no architecture level for this processor"
#endif
}

bool all_digits(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](unsigned char c) { return isdigit(c); });
}

// sm_80, sm_90a, sm_100f
bool is_cuda_arch(std::string_view text) {
  if (!text.starts_with("sm_")) return false;
  text.remove_prefix(3);
  if (text.ends_with('a') || text.ends_with('f')) text.remove_suffix(1);
  return all_digits(text) && text.size() >= 2 && text.size() <= 3;
}

// gfx90a, gfx1030, gfx90a:sramecc+:xnack-
bool is_hip_arch(std::string_view text) {
  if (!text.starts_with("gfx")) return false;
  text.remove_prefix(3);
  const size_t colon = text.find(':');
  const std::string_view number = text.substr(0, colon);
  const auto is_lower_hex = [](unsigned char c) { return isdigit(c) || (c >= 'a' && c <= 'f'); };
  if (number.size() < 3 || number.size() > 5 || !std::ranges::all_of(number, is_lower_hex))
    return false;
  std::string_view features = colon == std::string_view::npos ? "" : text.substr(colon);
  while (!features.empty()) {
    features.remove_prefix(1);
    const std::string_view feature = features.substr(0, features.find(':'));
    if (feature != "sramecc+" && feature != "sramecc-" && feature != "xnack+" &&
        feature != "xnack-")
      return false;
    features.remove_prefix(feature.size());
  }
  return true;
}

}  // namespace

Target parse_target(std::string_view text) {
  if (text == "cpu") return {Backend::cpu, std::string(this_cpu())};
  if (std::ranges::find(cpu_levels, text) != cpu_levels.end())
    return {Backend::cpu, std::string(text)};
  if (is_cuda_arch(text)) return {Backend::cuda, std::string(text)};
  if (is_hip_arch(text)) return {Backend::hip, std::string(text)};
  throw Error(ErrorKind::invalid_argument,
              fmt::format("target \"{}\" is not known: give sm_NN[a], for example sm_90a; gfxNNN, "
                          "for example gfx90a or gfx90a:sramecc+:xnack-; cpu for this machine; or "
                          "one of {}",
                          text, fmt::join(cpu_levels, ", ")));
}

std::vector<std::string> levels_run_by(const Target& target) {
  if (target.backend != Backend::cpu) return {};
  std::vector<std::string> levels = {target.arch};
  auto level = std::ranges::find(cpu_levels, target.arch);
  if (!target.arch.starts_with("x86-64")) return levels;
  while (level != cpu_levels.begin()) levels.emplace_back(*--level);
  return levels;
}

int compute_capability(const Target& target) {
  int number = 0;
  if (target.backend == Backend::cuda)
    std::from_chars(target.arch.data() + 3, target.arch.data() + target.arch.size(), number);
  return number;
}

std::string_view name_of(Backend backend) {
  switch (backend) {
    case Backend::cuda:
      return "cuda";
    case Backend::hip:
      return "hip";
    case Backend::cpu:
      return "cpu";
  }
  return "";
}

}  // namespace liger
