#include "engine/report/describe.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "autotune/picks.h"
#include "base/counters.h"
#include "base/environment.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "cache/remote_check.h"
#include "cache/store.h"
#include "engine/arguments.h"
#include "engine/plan.h"
#include "engine/registry.h"
#include "engine/report/json_text.h"
#include "runtime/compile/served_builds.h"

namespace liger {

using nlohmann::json;

namespace {

const char* kind_text(InputKind kind) {
  switch (kind) {
    case InputKind::tensor:
      return "tensor";
    case InputKind::optional_tensor:
      return "optional_tensor";
    case InputKind::integer:
      return "int";
    case InputKind::real:
      return "float";
    case InputKind::flag:
      return "bool";
    case InputKind::mask:
      return "bools";
  }
  return "";
}

const char* layout_text(Layout layout) {
  switch (layout) {
    case Layout::rows:
      return "rows";
    case Layout::dense:
      return "dense";
    case Layout::strided:
      return "strided";
    case Layout::unread:
      return "unread";
  }
  return "";
}

const char* sharding_text(Sharding sharding) {
  switch (sharding) {
    case Sharding::whole:
      return "whole";
    case Sharding::rows:
      return "rows";
    case Sharding::elements:
      return "elements";
    case Sharding::heads:
      return "heads";
    case Sharding::tokens:
      return "tokens";
  }
  return "";
}

Dtype sample_dtype(const Sample& sample, Dtype asked) {
  if (sample.dtype.empty()) return asked;
  for (const Dtype dtype : {Dtype::i64, Dtype::i32, Dtype::i8, Dtype::u8}) {
    if (sample.dtype == name_of(dtype)) return dtype;
  }
  if (sample.dtype == "arithmetic") return asked == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  return parse_dtype(sample.dtype);
}

}  // namespace

Dtype parse_dtype(std::string_view text) {
  for (const auto& [name, dtype] :
       std::initializer_list<std::pair<std::string_view, Dtype>>{{"float32", Dtype::f32},
                                                                 {"f32", Dtype::f32},
                                                                 {"bfloat16", Dtype::bf16},
                                                                 {"bf16", Dtype::bf16},
                                                                 {"float16", Dtype::f16},
                                                                 {"f16", Dtype::f16},
                                                                 {"fp16", Dtype::f16},
                                                                 {"fp32", Dtype::f32},
                                                                 {"fp64", Dtype::f64},
                                                                 {"float64", Dtype::f64},
                                                                 {"f64", Dtype::f64}}) {
    if (name == text) return dtype;
  }
  throw Error(ErrorKind::invalid_argument,
              fmt::format("'{}' is no dtype; allowed: float32, bfloat16, float16, float64", text));
}

std::string describe_ops() {
  json list = json::array();
  for (const Op& op : registry()) {
    json inputs = json::array();
    for (const Input& input : op.inputs) {
      inputs.push_back({{"name", input.name},
                        {"kind", kind_text(input.kind)},
                        {"layout", layout_text(input.layout)},
                        {"batch_dim", input.batch_dim},
                        {"written", input.written},
                        {"default", input.default_text},
                        {"choices", input.choices}});
    }
    json outputs = json::array();
    for (const Output& output : op.outputs) outputs.push_back(output.name);
    json kernels = json::array();
    for (const KernelOf& kernel : op.kernels)
      kernels.push_back({{"name", kernel.name}, {"template", kernel.source}});
    json cases = json::array();
    for (const BenchCase& one : op.bench) {
      json row = {{"name", one.name}, {"dtype", name_of(one.dtype)}};
      const Extent extent = op.extent(one.extent);
      for (const NamedSize& size : extent.sizes()) row[size.name] = size.value;
      row["options"] = json::object();
      for (const auto& [option, value] : one.options)
        std::visit([&](const auto& known) { row["options"][option] = known; }, value);
      row["frozen"] = one.frozen;
      row["ignored_first"] = one.ignored_first;
      row["skew"] = one.skew;
      cases.push_back(std::move(row));
    }
    json sizes = json::array();
    for (const ExampleSize& size : op.sizes)
      sizes.push_back({{"name", size.name}, {"usual", size.usual}, {"meaning", size.meaning}});
    list.push_back(
        {{"name", op.name},
         {"doc", op.doc},
         {"schema", op.schema()},
         {"internal", op.internal},
         {"backward", op.gradient.backward.empty() ? json(nullptr) : json(op.gradient.backward)},
         {"differentiable", op.gradient.exists()},
         {"sharding", sharding_text(op.sharding)},
         {"composite", op.kernels.empty()},
         {"inputs", inputs},
         {"outputs", outputs},
         {"kernels", kernels},
         {"sizes", sizes},
         {"cases", cases}});
  }
  return text_of(list);
}

std::string describe_environment() {
  json variables = json::array();
  for (const EnvironmentVariable& variable : environment_table()) {
    variables.push_back({{"name", variable.name},
                         {"default", variable.default_text},
                         {"meaning", variable.meaning},
                         {"value", shown_value(variable)}});
  }
  json compilers = json::array();
  json devices = json::array();
  for (const Backend backend : {Backend::cuda, Backend::hip, Backend::cpu}) {
    const CompilerState state = compiler_for(backend).state();
    json served = json::array();  // without a compiler of this machine: those of others
    if (!state.found && backend == Backend::cpu) {
      for (const ServedBuild& build : served_builds(parse_target("cpu"))) {
        served.push_back({{"compiler", build.compiler},
                          {"arch", build.target.arch},
                          {"entries", build.entries}});
      }
    }
    compilers.push_back({{"backend", name_of(backend)},
                         {"found", state.found},
                         {"path", state.path},
                         {"version", state.version},
                         {"problem", state.problem},
                         {"served", served}});
    const std::string problem = device_problem(backend);
    if (!problem.empty()) {
      devices.push_back({{"backend", name_of(backend)},
                         {"ordinal", 0},
                         {"name", ""},
                         {"arch", ""},
                         {"problem", problem}});
      continue;
    }
    for (int ordinal = 0; ordinal < device_count(backend); ++ordinal) {
      const DeviceProperties& properties = device(backend, ordinal).properties();
      devices.push_back({{"backend", name_of(backend)},
                         {"ordinal", ordinal},
                         {"name", properties.name},
                         {"arch", properties.target.arch},
                         {"problem", ""}});
    }
  }
  const Store& store = Store::user();
  json result = {{"variables", variables}, {"compilers", compilers}, {"devices", devices}};
  json layers = json::array();
  for (const ReadonlyLayer& layer : store.readonly_layers()) {
    layers.push_back({{"path", layer.path},
                      {"kind", layer.is_bundle ? "bundle" : "folder"},
                      {"problem", layer.problem}});
  }
  result["cache"] = {{"folder", store.folder()},
                     {"why_memory_only", store.why_memory_only()},
                     {"mode", name_of(environment().cache_mode)},
                     {"most_bytes", environment().cache_size_bytes},
                     {"readonly", layers},
                     {"remote", environment().remote ? environment().remote->shown() : ""}};
  return text_of(result);
}

std::string describe_remote() {
  if (!environment().remote) return "{}";
  const RemoteAddress& address = *environment().remote;
  const bool writes = environment().cache_mode != CacheMode::readonly;
  const RemoteCheck check = check_remote(address, writes, std::chrono::seconds(2));
  return text_of(json{{"address", address.shown()},
                      {"reads", check.reads},
                      {"problem", check.problem},
                      {"read_ms", check.read_ms}});
}

std::string describe_stats() {
  json values = json::object();
  for (const auto& [name, value] : counter_values()) values[name] = value;
  json picks = json::array();
  for (const Pick& pick : picks_made())
    picks.push_back({{"kernel", pick.kernel}, {"key", pick.key}, {"pick", pick.candidate}});
  return text_of(json{{"counters", values}, {"picks", picks}, {"warnings", recent_warnings()}});
}

std::string describe_example(const Op& op, Dtype dtype, const Extent& extent) {
  json list = json::array();
  if (!op.example) return text_of(list);
  for (const Sample& sample : op.example(op.extent(extent))) {
    const Input& input = op.inputs[op.input_index(sample.input)];
    json row = {{"name", sample.input}};
    if (sample.none) {
      row["kind"] = "none";
    } else if (input.is_tensor()) {
      row["kind"] = "tensor";
      row["shape"] = sample.shape;
      row["dtype"] = name_of(sample_dtype(sample, dtype));
      row["below"] = sample.below > 0 ? json(sample.below) : json(nullptr);
      row["heads_second"] = sample.heads_second;
      row["probabilities"] = sample.probabilities;
    } else {
      row["kind"] = kind_text(input.kind);
      row["value"] = sample.value;
      if (input.kind == InputKind::integer) row["value"] = static_cast<int64_t>(sample.value);
      if (input.kind == InputKind::flag) row["value"] = sample.value != 0;
      if (input.kind == InputKind::mask) {
        json bits = json::array();
        for (int bit = 0; bit < input.mask_length; ++bit) {
          bits.push_back((static_cast<int64_t>(sample.value) >> bit & 1) != 0);
        }
        row["value"] = bits;
      }
    }
    list.push_back(std::move(row));
  }
  return text_of(list);
}

Call example_call(const Op& op, Dtype dtype, const Extent& extent, Place place) {
  Call call(op, place);
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const Input& input = op.inputs[i];
    Scalar& scalar = call.scalar(static_cast<int>(i));
    if (input.kind == InputKind::real)
      scalar.real = input.default_text.empty() ? 0.0 : std::stod(input.default_text);
    if (input.kind == InputKind::integer && !input.default_text.empty())
      scalar.integer = std::stoll(input.default_text);
    if (input.kind == InputKind::flag) scalar.integer = input.default_text == "True";
  }
  for (const Sample& sample : op.example(op.extent(extent))) {
    const int index = op.input_index(sample.input);
    const Input& input = op.inputs[index];
    if (sample.none) continue;
    if (!input.is_tensor()) {
      if (input.kind == InputKind::real) {
        call.scalar(index).real = sample.value;
      } else {
        call.scalar(index).integer = static_cast<int64_t>(sample.value);
      }
      continue;
    }
    Tensor& tensor = call.tensor(index);
    tensor.defined = true;
    tensor.dtype = sample_dtype(sample, dtype);
    tensor.dims = static_cast<int>(sample.shape.size());
    int64_t stride = 1;
    for (int dim = tensor.dims - 1; dim >= 0; --dim) {
      tensor.sizes[dim] = sample.shape[dim];
      tensor.strides[dim] = stride;
      stride *= sample.shape[dim];
    }
    if (sample.heads_second) {
      tensor.strides[1] = sample.shape[3];
      tensor.strides[2] = sample.shape[1] * sample.shape[3];
    }
  }
  return call;
}

std::string describe_units(const Op& op, Dtype dtype, const Extent& extent, const Target& target,
                           bool compile) {
  if (!op.example || op.kernels.empty()) {
    throw Error(ErrorKind::invalid_argument,
                fmt::format("{} has no kernel of its own: it is made of others", op.name));
  }
  json kernels = json::array();
  for (const PlannedUnit& planned :
       units_of(example_call(op, dtype, extent, place_on(target)), false)) {
    json knobs = json::object();
    for (const Knob& knob : planned.knobs) knobs[knob.name] = knob.value;
    json row = {{"kernel", planned.unit.kernel},
                {"arch", target.arch},
                {"knobs", knobs},
                {"unit", planned.unit.text},
                {"expanded", planned.unit.expanded}};
    if (compile) {
      const auto binary = artifact(planned.unit, target);
      row["registers"] = binary->resources.registers;
      row["spill_bytes"] = binary->resources.spill_bytes;
      row["stack_bytes"] = binary->resources.stack_bytes;
      row["shared_bytes"] = binary->resources.shared_bytes;
      row["compile_ms"] = binary->compile_ms;
      row["binary_bytes"] = binary->bytes.size();
    }
    kernels.push_back(std::move(row));
  }
  return text_of(json{{"op", op.name}, {"kernels", kernels}});
}

}  // namespace liger
