#include "engine/plan.h"

#include <algorithm>

#include "base/counters.h"
#include "base/environment.h"
#include "base/error.h"
#include "base/text.h"
#include "engine/arguments.h"
#include "engine/output_layout.h"
#include "engine/registry.h"
#include "engine/tuning.h"
#include "runtime/compile/source_hash.h"

namespace liger {

namespace {

std::string allowed_text(const Input& input) {
  if (input.dtypes.empty()) return "float32, bfloat16, float16 (and float64 on the CPU)";
  std::vector<std::string> names;
  for (const Dtype dtype : input.dtypes) names.emplace_back(name_of(dtype));
  return fmt::join(names, ", ");
}

bool allowed(const Input& input, Dtype dtype) {
  if (input.dtypes.empty()) return is_float(dtype);
  return std::find(input.dtypes.begin(), input.dtypes.end(), dtype) != input.dtypes.end();
}

// Whether kernels follow its strides. A copy of what they cannot follow is contiguous, and what
// torch takes for contiguous is readable: it would not be copied.
bool readable(Layout layout, const Tensor& tensor) {
  if (tensor.count() == 0) return true;
  switch (layout) {
    case Layout::rows:
      return tensor.row_stride() >= 0;
    case Layout::dense:
      return tensor.contiguous();
    case Layout::strided:
      return tensor.last_size() == 1 || tensor.strides[tensor.dims - 1] == 1;
    case Layout::unread:
      return true;
  }
  return false;
}

// A copy would be overwritten in its place, and rows that share memory one after another.
void check_written(const Call& call, const Input& input, const Tensor& tensor) {
  if (!readable(input.layout, tensor)) {
    call.refuse(input.name, "is overwritten and has strides that a kernel cannot follow",
                "a contiguous tensor");
  }
  if (tensor.overlaps()) {
    call.refuse(input.name, "is overwritten and some of its elements are one in memory",
                "a tensor that is not expanded and does not overlap itself");
  }
}

void check_choice(const Call& call, int index) {
  const Input& input = call.op().inputs[index];
  const int64_t number = call.scalar(index).integer;
  if (number >= 0 && number < static_cast<int64_t>(input.choices.size())) return;
  std::vector<std::string> allowed;
  for (const std::string& choice : input.choices)
    allowed.push_back(fmt::format("{} ({})", allowed.size(), choice));
  call.refuse(input.name, fmt::format("is {}", number), fmt::join(allowed, ", "));
}

// Kernels compute in float64 where their inputs are, and in float32 where none is.
void check_float64(const Call& call) {
  const Op& op = call.op();
  if (op.kernels.empty()) return;
  int first = -1;
  for (int i = 0; i < static_cast<int>(op.inputs.size()); ++i) {
    const Tensor& tensor = call.tensor(i);
    if (!op.inputs[i].is_tensor() || !op.inputs[i].dtypes.empty() || !tensor.defined) continue;
    if (first < 0) first = i;
    const Dtype wanted = call.tensor(first).dtype;
    if ((wanted == Dtype::f64) == (tensor.dtype == Dtype::f64)) continue;
    call.refuse(op.inputs[i].name, fmt::format("has dtype {}", name_of(tensor.dtype)),
                fmt::format("float64 in all tensors or in none, and {} has {}",
                            op.inputs[first].name, name_of(wanted)));
  }
}

}  // namespace

void check_call(const Call& call) {
  const Op& op = call.op();
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const Input& input = op.inputs[i];
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (input.kind == InputKind::tensor && !tensor.defined) {
      call.refuse(input.name, "is None", "a Tensor");
    }
    if (!input.choices.empty()) check_choice(call, static_cast<int>(i));
    if (!input.is_tensor() || !tensor.defined) continue;
    if (!allowed(input, tensor.dtype)) {
      call.refuse(input.name, fmt::format("has dtype {}", name_of(tensor.dtype)),
                  allowed_text(input));
    }
    // A part of a composite may keep a few numbers of its own in it: it lists the type.
    if (tensor.dtype == Dtype::f64 && input.dtypes.empty() && !call.on_host()) {
      throw Error(ErrorKind::unsupported,
                  fmt::format("liger_jit::{}: argument '{}' has dtype float64 on a GPU; allowed: "
                              "float32, bfloat16, "
                              "float16 (float64 runs on the CPU)",
                              op.name, input.name));
    }
    if (input.layout != Layout::dense && tensor.dims == 0) {
      call.refuse(input.name, "has no dimension", "one or more");
    }
    if (input.layout == Layout::rows && tensor.last_size() == 0) {
      call.refuse(input.name, "has shape " + shape_text(tensor), "a last size of 1 or more");
    }
    if (input.layout == Layout::rows && tensor.last_size() > (int64_t{1} << 30)) {
      call.refuse(input.name, "has shape " + shape_text(tensor), "a last size up to 2^30");
    }
  }
  check_float64(call);
  if (op.check) op.check(call);
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (op.inputs[i].written && tensor.defined) check_written(call, op.inputs[i], tensor);
  }
}

namespace {

OutputPlan plan_output(const Call& call, const Output& output) {
  const Tensor tensor = output_tensor(call, output);
  OutputPlan plan{{tensor.sizes, tensor.sizes + tensor.dims}, tensor.dtype, {}};
  if (!tensor.contiguous()) plan.strides = {tensor.strides, tensor.strides + tensor.dims};
  return plan;
}

[[noreturn]] void refuse_capture(const Op& op, const KernelOf& kernel) {
  throw Error(ErrorKind::device,
              fmt::format("liger_jit::{}: kernel {} is not loaded for these shapes and a CUDA "
                          "graph is being captured; "
                          "run the op once before the capture, or call liger_jit.warmup(...)",
                          op.name, kernel.name));
}

}  // namespace

std::vector<OutputPlan> plan_outputs(const Call& call) {
  std::vector<OutputPlan> outputs;
  for (const Output& output : call.op().outputs) outputs.push_back(plan_output(call, output));
  return outputs;
}

uint32_t copies_needed(const Call& call) {
  uint32_t copies = 0;
  for (size_t i = 0; i < call.op().inputs.size(); ++i) {
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (tensor.defined && !readable(call.op().inputs[i].layout, tensor)) copies |= 1u << i;
  }
  return copies;
}

std::shared_ptr<const Plan> make_plan(const Call& call, Device& device, Stream stream) {
  check_call(call);
  const Op& op = call.op();
  auto plan = std::make_shared<Plan>();
  plan->op = &op;
  plan->device = &device;
  plan->copies = copies_needed(call);
  if (plan->copies != 0) return plan;

  plan->outputs = plan_outputs(call);
  for (const Temporary& temporary : op.temporaries) {
    plan->temporary_offsets.push_back(plan->workspace_bytes);
    plan->workspace_bytes += (temporary.size_bytes(call) + 255) / 256 * 256;
  }
  const bool capturing = device.capturing(stream);
  for (const KernelOf& kernel_of : op.kernels) {
    if (kernel_of.when && !kernel_of.when(call)) continue;
    const Knobs first = candidates_of(kernel_of, call).front();
    if (kernel_of.blocks(call, first) == 0) continue;
    const auto [knobs, provisional] = choose_knobs(kernel_of, call, device, stream, !capturing);
    plan->provisional |= provisional;
    const Kernel* loaded =
        kernel(kernel_of.made_from(), full_spec(kernel_of, call, knobs), device, !capturing);
    if (!loaded) refuse_capture(op, kernel_of);
    Launch launch = launch_of(kernel_of, call, knobs);
    launch.function = loaded->function;
    device.allow_shared(launch.function, launch.shared_bytes);
    for (const Launch::Pointer& pointer : launch.pointers)
      plan->records_faults |= pointer.slot == fault_slot;
    plan->launches.push_back(std::move(launch));
  }
  counters().plans++;
  return plan;
}

void launch(const Launch& launch, Device& device, void* const* pointers, Stream stream) {
  alignas(TensorMap) uint64_t words[max_packed_arguments];
  std::copy(launch.packed_arguments.begin(), launch.packed_arguments.end(), words);
  for (const auto& [word, slot] : launch.pointers)
    words[word] = reinterpret_cast<uint64_t>(pointers[slot]);
  for (const auto& [word, slot, described] : launch.tiles) {
    TiledMatrix matrix = described;
    matrix.data = pointers[slot];
    const TensorMap map = device.tensor_map_of(matrix);
    std::copy(std::begin(map.words), std::end(map.words), words + word);
  }
  device.launch(launch.function, launch.blocks, launch.threads, words,
                launch.packed_arguments.size() * sizeof(uint64_t), stream, launch.shared_bytes);
}

void launch(const Plan& plan, void* const* pointers, Stream stream) {
  for (const Launch& one : plan.launches) launch(one, *plan.device, pointers, stream);
  counters().launches.fetch_add(plan.launches.size(), std::memory_order_relaxed);
}

namespace {

// A backward was called by autograd, a part by Python: the user called the op that it is the
// backward or a part of.
const Op& called_by_user(const Op& blamed) {
  if (!blamed.internal) return blamed;
  if (!blamed.part_of.empty()) return op_named(blamed.part_of);
  for (const Op& op : registry()) {
    if (op.gradient.backward == blamed.name || op.gradient.donating_backward == blamed.name)
      return op;
  }
  return blamed;
}

}  // namespace

void raise_fault(Fault& fault) {
  int64_t state = Fault::published;
  if (fault.state.load(std::memory_order_relaxed) != state ||
      !fault.state.compare_exchange_strong(state, Fault::reading)) {
    return;
  }
  const Op& op = called_by_user(*reinterpret_cast<const Op*>(fault.blamed));
  const FaultOf& check = *reinterpret_cast<const FaultOf*>(fault.check);
  const int64_t place = fault.place;
  const int64_t value = fault.value;
  const int64_t limit = fault.limit;
  fault.state.store(Fault::empty, std::memory_order_release);
  const std::string besides = check.besides.empty() ? "" : " and " + check.besides;
  throw Error(ErrorKind::invalid_argument,
              fmt::format("liger_jit::{}: element {} of argument '{}' is {}; allowed: 0 to {}{}",
                          op.name, place, check.input, value, limit - 1, besides));
}

std::vector<PlannedUnit> units_of(const Call& call, bool all_candidates, KnownUnits* known) {
  check_call(call);
  std::vector<PlannedUnit> units;
  for (const KernelOf& kernel_of : call.op().kernels) {
    if (kernel_of.when && !kernel_of.when(call)) continue;
    std::vector<Knobs> candidates = candidates_of(kernel_of, call);
    if (!all_candidates) candidates.resize(1);
    for (const Knobs& knobs : candidates) {
      if (known) {
        const Hash128 source =
            source_hash(kernel_of.made_from(), full_spec(kernel_of, call, knobs));
        if (!known->insert(source).second) continue;
      }
      units.push_back({unit_of(kernel_of, call, knobs), knobs, &knobs == &candidates.front()});
    }
  }
  return units;
}

}  // namespace liger
