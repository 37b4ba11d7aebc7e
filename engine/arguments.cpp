#include "engine/arguments.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>

#include "base/parts.h"
#include "base/text.h"
#include "engine/output_layout.h"

namespace liger {

namespace {

[[noreturn]] void wrong_declaration(const Op& op, const std::string& argument) {
  std::fprintf(
      stderr,
      "liger_jit: op %s: kernel argument %s names nothing; a source is an input, an output, a "
      "temporary, or of a tensor .rows, .stride, .sizeN, .strideN\n",
      op.name.c_str(), argument.c_str());
  std::abort();
}

Tensor input_or_output(const Call& call, std::string_view name) {
  const int output = call.op().output_index(name);
  return output < 0 ? call[name] : output_tensor(call, call.op().outputs[output]);
}

// x.rows, x.stride, x.size1, x.stride0
int64_t property(const Call& call, const std::string& text) {
  const size_t dot = text.find('.');
  const Tensor tensor = input_or_output(call, std::string_view(text).substr(0, dot));
  const std::string what = text.substr(dot + 1);
  if (!tensor.defined) return 0;
  if (what == "rows") return tensor.rows();
  if (what == "stride") return tensor.row_stride();
  if (what.rfind("size", 0) == 0) return tensor.sizes[std::stoi(what.substr(4))];
  if (what.rfind("stride", 0) == 0) return tensor.strides[std::stoi(what.substr(6))];
  wrong_declaration(call.op(), text);
}

uint64_t packed_scalar(const Call& call, int input) {
  const Scalar value = call.scalar(input);
  if (call.op().inputs[input].kind == InputKind::real) return std::bit_cast<uint64_t>(value.real);
  return static_cast<uint64_t>(value.integer);
}

TiledMatrix tiled(const Call& call, const TensorMapOf& tiles) {
  const Tensor tensor = input_or_output(call, tiles.tensor);
  const int64_t matrices = tiles.stacked ? tensor.sizes[0] : 0;
  // Of a single row the stride is its length, which may be any.
  const int64_t row_bytes = tensor.row_stride() * size_bytes(tensor.dtype);
  return {.rows = tiles.stacked ? tensor.sizes[1] : tensor.rows(),
          .columns = tensor.last_size(),
          .row_bytes = (row_bytes + 15) / 16 * 16,
          .tile_rows = tiles.tile_rows,
          .tile_columns = tiles.tile_columns,
          .matrices = matrices};
}

// The words of an InputFault: the record, the op to blame, what else the message says, and places.
void push_fault(const Op& op, const FaultOf& fault, Launch& launch) {
  const int input = op.input_index(fault.input);
  if (input < 0 || !op.inputs[input].is_tensor()) wrong_declaration(op, fault.input);
  if (!fault.besides.empty() && op.input_index(fault.besides) < 0)
    wrong_declaration(op, fault.besides);
  const auto word = static_cast<uint16_t>(launch.packed_arguments.size());
  launch.pointers.push_back({word, fault_slot});
  launch.pointers.push_back({static_cast<uint16_t>(word + 1), blamed_slot});
  launch.packed_arguments.insert(launch.packed_arguments.end(),
                                 {0, 0, reinterpret_cast<uint64_t>(&fault), 0});
  if (fault.places.empty()) return;
  const int places = slot_of(op, fault.places);
  if (places < 0) wrong_declaration(op, fault.places);
  launch.pointers.push_back({static_cast<uint16_t>(word + 3), static_cast<uint16_t>(places)});
}

// To wake a thread costs some microseconds, in which another has worked on as many elements.
int blocks_worth_a_thread(const Call& call, int64_t blocks) {
  constexpr int64_t elements_worth_a_thread = 32768;
  int64_t elements = 1;
  for (size_t i = 0; i < call.op().inputs.size(); ++i) {
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (tensor.defined) elements = std::max(elements, tensor.count());
  }
  const int64_t of_block = std::max<int64_t>(elements / std::max<int64_t>(blocks, 1), 1);
  return static_cast<int>(parts(elements_worth_a_thread, of_block));
}

}  // namespace

int slot_of(const Op& op, std::string_view name) {
  const int inputs = static_cast<int>(op.inputs.size());
  const int input = op.input_index(name);
  if (input >= 0 && op.inputs[input].is_tensor()) return input;
  const int output = op.output_index(name);
  if (output >= 0) return inputs + output;
  for (size_t i = 0; i < op.temporaries.size(); ++i) {
    if (op.temporaries[i].name == name) return inputs + static_cast<int>(op.outputs.size() + i);
  }
  return -1;
}

int slot_count(const Op& op) {
  return static_cast<int>(op.inputs.size() + op.outputs.size() + op.temporaries.size());
}

Launch launch_of(const KernelOf& kernel, const Call& call, const Knobs& knobs) {
  const Op& op = call.op();
  Launch launch;
  launch.blocks = kernel.blocks(call, knobs);
  launch.threads =
      call.on_host() ? blocks_worth_a_thread(call, launch.blocks)
      : kernel.threads
          ? static_cast<int>(kernel.threads(knobs))
          : static_cast<int>(value_of(knobs, "threads", 1) * value_of(knobs, "rows", 1));
  if (kernel.shared_bytes) launch.shared_bytes = kernel.shared_bytes(call, knobs);
  for (const auto& [member, source] : kernel.arguments) {
    const auto word = static_cast<uint16_t>(launch.packed_arguments.size());
    if (const auto* compute = std::get_if<std::function<int64_t(const Call&)>>(&source)) {
      launch.packed_arguments.push_back(static_cast<uint64_t>((*compute)(call)));
      continue;
    }
    if (const auto* tiles = std::get_if<TensorMapOf>(&source)) {
      if (word * sizeof(uint64_t) % alignof(TensorMap) != 0) wrong_declaration(op, tiles->tensor);
      launch.tiles.push_back(
          {word, static_cast<uint16_t>(slot_of(op, tiles->tensor)), tiled(call, *tiles)});
      launch.packed_arguments.resize(word + sizeof(TensorMap) / sizeof(uint64_t));
      continue;
    }
    if (const auto* fault = std::get_if<FaultOf>(&source)) {
      push_fault(op, *fault, launch);
      continue;
    }
    const auto& name = std::get<std::string>(source);
    if (name.find('.') != std::string::npos) {
      launch.packed_arguments.push_back(static_cast<uint64_t>(property(call, name)));
    } else if (const int slot = slot_of(op, name); slot >= 0) {
      launch.pointers.push_back({word, static_cast<uint16_t>(slot)});
      launch.packed_arguments.push_back(0);
    } else if (const int input = op.input_index(name); input >= 0) {
      launch.packed_arguments.push_back(packed_scalar(call, input));
    } else {
      wrong_declaration(op, name);
    }
  }
  if (launch.packed_arguments.size() > max_packed_arguments || slot_count(op) > max_slots)
    wrong_declaration(op, "count");
  return launch;
}

std::string layout_of(const KernelOf& kernel) {
  std::vector<Member> members;
  bool records = false;
  for (const Argument& argument : kernel.arguments) {
    if (!std::holds_alternative<FaultOf>(argument.source)) {
      members.push_back({argument.member, argument.bytes()});
      continue;
    }
    records = true;
    for (const char* const word : {".record", ".blamed", ".check", ".places"})
      members.push_back({argument.member + word});
  }
  return (records ? fault_layout() : "") + layout_of(kernel.name, members);
}

Spec full_spec(const KernelOf& kernel, const Call& call, const Knobs& knobs) {
  Spec spec = kernel.spec(call);
  for (const Knob& knob : knobs) spec.push_back({knob.name, knob.value});
  return spec;
}

Unit unit_of(const KernelOf& kernel, const Call& call, const Knobs& knobs) {
  return make_unit(kernel.made_from(), full_spec(kernel, call, knobs));
}

std::vector<Knobs> candidates_of(const KernelOf& kernel, const Call& call) {
  if (!kernel.candidates) return {Knobs{}};
  std::vector<Knobs> candidates = kernel.candidates(call);
  if (candidates.empty()) candidates.emplace_back();
  return candidates;
}

std::string text_of(const Knobs& knobs) {
  std::vector<std::string> parts;
  for (const Knob& knob : knobs) parts.push_back(fmt::format("{}={}", knob.name, knob.value));
  return parts.empty() ? "-" : fmt::join(parts, ",");
}

}  // namespace liger
