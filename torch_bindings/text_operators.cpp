#include "torch_bindings/text_operators.h"

#include <c10/core/Device.h>

#include "base/shared_library.h"
#include "engine/plan.h"
#include "engine/prepare.h"
#include "engine/registry.h"
#include "engine/report/describe.h"
#include "engine/report/describe_cache.h"
#include "runtime/kernels.h"
#include "torch_bindings/process_group.h"
#include "torch_bindings/tensor.h"
#include "torch_bindings/torch_version.h"

namespace liger::torch_bindings {

namespace {

using Sizes = c10::Dict<std::string, int64_t>;
Extent extent_of(const Sizes& sizes) {
  std::vector<NamedSize> named;
  for (const auto& size : sizes) named.push_back({size.key(), size.value()});
  return Extent(std::move(named));
}

Target target_of(const std::string& text) {
  const c10::string_view prefix = "device:";
  if (text.rfind(prefix.data(), 0) != 0) return parse_target(text);
  const c10::Device where(text.substr(prefix.size()));
  return device(backend_of(where), where.is_cpu() || !where.has_index() ? 0 : where.index())
      .properties()
      .target;
}

// Progress of the background compiles: done, total, failed.
std::vector<int64_t> progress() {
  const BackgroundProgress state = background_progress();
  return {state.done, state.total, state.failed};
}

void check_faults() {
  for (Device* on : open_devices(backend_of(c10::Device(c10::kCUDA)))) {
    on->synchronize();
    raise_fault(*on->fault());
  }
}

int64_t tune_on(const std::string& device_text) {
  const c10::Device where(device_text);
  return tune_prepared(backend_of(where), where.is_cpu() || !where.has_index() ? 0 : where.index());
}

// Of the core and of this binding.
std::string build_of_both() {
  const std::string binding = library_of(reinterpret_cast<const void*>(&build_of_both));
  return build_identity(own_library()) + " " + build_identity(binding);
}

}  // namespace

void register_text_operators(torch::Library& library) {
  library.def("_ops() -> str", [] { return with_torch_errors([] { return describe_ops(); }); });
  library.def("_build() -> str", [] { return with_torch_errors([] { return build_of_both(); }); });
  library.def("_built_with() -> str", [] { return std::string(torch_version); });
  library.def("_environment() -> str",
              [] { return with_torch_errors([] { return describe_environment(); }); });
  library.def("_remote() -> str",
              [] { return with_torch_errors([] { return describe_remote(); }); });
  library.def("_stats() -> str", [] { return with_torch_errors([] { return describe_stats(); }); });
  library.def("_cache(str action) -> str", [](const std::string& action) {
    return with_torch_errors([&] { return describe_cache(action); });
  });
  library.def("_cache_entries(str name) -> str", [](const std::string& name) {
    return with_torch_errors([&] { return describe_entries(name); });
  });
  library.def("_cache_prune(str most_size) -> str", [](const std::string& most_size) {
    return with_torch_errors([&] { return prune_cache(most_size); });
  });
  library.def("_cache_export(str path, str[] names, str provenance) -> str",
              [](const std::string& path, const std::vector<std::string>& names,
                 const std::string& provenance) {
                return with_torch_errors([&] { return export_bundle(path, names, provenance); });
              });
  library.def("_cache_import(str path) -> str", [](const std::string& path) {
    return with_torch_errors([&] { return import_bundle(path); });
  });
  library.def("_example(str op, str dtype, Dict(str, int) sizes) -> str",
              [](const std::string& op, const std::string& dtype, const Sizes& sizes) {
                return with_torch_errors([&] {
                  return describe_example(op_named(op), parse_dtype(dtype), extent_of(sizes));
                });
              });
  library.def("_show(str op, str dtype, Dict(str, int) sizes, str arch, bool compile) -> str",
              [](const std::string& op, const std::string& dtype, const Sizes& sizes,
                 const std::string& arch, bool compile) {
                return with_torch_errors([&] {
                  return describe_units(op_named(op), parse_dtype(dtype), extent_of(sizes),
                                        target_of(arch), compile);
                });
              });
  library.def("_prepare_begin(str arch) -> ()", [](const std::string& arch) {
    with_torch_errors([&] { begin_prepare(target_of(arch)); });
  });
  library.def("_prepare_end(bool awaited) -> int",
              [](bool awaited) -> int64_t { return end_prepare(awaited); });
  library.def("_prepare_tunes(bool tunes) -> ()", [](bool tunes) { tune_what_is_prepared(tunes); });
  library.def("_prepared() -> str[]", [] { return prepared_names(); });
  library.def("_progress() -> int[]", [] { return progress(); });
  library.def("_wait() -> str[]", [] {
    wait_for_background_compiles();
    return take_prepared_failures();
  });
  library.def("_end_background_compiles() -> ()", [] { end_background_compiles(); });
  library.def("_tune_prepared(str device) -> int", [](const std::string& device_text) {
    return with_torch_errors([&] { return tune_on(device_text); });
  });
  library.def("_use_process_group(str name) -> ()",
              [](const std::string& name) { use_process_group(name); });
  library.def("_check() -> ()", [] { with_torch_errors([] { check_faults(); }); });
}

}  // namespace liger::torch_bindings
