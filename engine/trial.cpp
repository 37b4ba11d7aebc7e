#include "engine/trial.h"

#include <algorithm>

#include "engine/arguments.h"
#include "engine/scratch.h"

namespace liger {

namespace {

constexpr int64_t most_bytes_measured = int64_t{256} << 20;  // of one set of tensors

int64_t output_bytes(const OutputPlan& output) {
  int64_t count = 1;
  for (const int64_t size : output.sizes) count *= size;
  return count * size_bytes(output.dtype);
}

Call small_enough(const Call& call) {
  const int64_t bytes = bytes_of_call(call);
  if (bytes <= most_bytes_measured) return call;
  return call.with_rows(std::max<int64_t>(1, rows_of_call(call) * most_bytes_measured / bytes));
}

// Pointers by slot for one set of tensors; empty when memory is short.
std::vector<void*> take_tensors(const Call& call, Scratch& scratch) {
  std::vector<void*> pointers;
  const auto add = [&](bool wanted, int64_t bytes, bool floating) {
    pointers.push_back(wanted ? scratch.take(bytes, floating) : nullptr);
    return !wanted || pointers.back() != nullptr;
  };
  for (size_t i = 0; i < call.op().inputs.size(); ++i) {
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (!add(tensor.defined, tensor.extent() * size_bytes(tensor.dtype), is_float(tensor.dtype)))
      return {};
  }
  for (const OutputPlan& output : plan_outputs(call)) {
    const int64_t bytes = output_bytes(output);
    if (!add(bytes > 0, bytes, is_float(output.dtype))) return {};
  }
  for (const Temporary& temporary : call.op().temporaries) {
    if (!add(true, temporary.size_bytes(call), true)) return {};
  }
  return pointers;
}

class CallTrial final : public Trial {
 public:
  CallTrial(const Call& call, Device& device, Stream stream)
      : device_(device), stream_(stream), scratch_(device) {
    const int64_t bytes = std::max<int64_t>(bytes_of_call(call), 1);
    // Enough sets that a launch never finds its inputs in the L2 cache.
    const int64_t wanted = std::clamp<int64_t>(3 * device.properties().l2_bytes / bytes + 1, 1, 16);
    for (int64_t i = 0; i < wanted; ++i) {
      auto pointers = take_tensors(call, scratch_);
      if (pointers.empty()) break;
      pointers.resize(all_slots);
      pointers[fault_slot] = device.fault() ? device.fault_pointer() : &fault_of_host_;
      pointers[blamed_slot] = const_cast<Op*>(&call.op());
      sets_.push_back(std::move(pointers));
    }
  }

  bool has_tensors() const { return !sets_.empty(); }

  void add(Launch launch) { launches_.push_back(std::move(launch)); }

  void launch(int candidate) override {
    liger::launch(launches_[candidate], device_, sets_[next_set_++ % sets_.size()].data(), stream_);
  }

 private:
  Device& device_;
  const Stream stream_;
  Scratch scratch_;
  Fault fault_of_host_;
  std::vector<std::vector<void*>> sets_;
  size_t next_set_ = 0;
  std::vector<Launch> launches_;  // by candidate
};

}  // namespace

int64_t bytes_of_call(const Call& call) {
  int64_t bytes = 0;
  for (size_t i = 0; i < call.op().inputs.size(); ++i) {
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (tensor.defined) bytes += tensor.extent() * size_bytes(tensor.dtype);
  }
  for (const OutputPlan& output : plan_outputs(call)) bytes += output_bytes(output);
  for (const Temporary& temporary : call.op().temporaries) bytes += temporary.size_bytes(call);
  return bytes;
}

int64_t rows_of_call(const Call& call) {
  for (size_t i = 0; i < call.op().inputs.size(); ++i) {
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (tensor.defined && tensor.dims > 0)
      return std::max<int64_t>(tensor.count() / tensor.last_size(), 1);
  }
  return 1;
}

std::unique_ptr<Trial> trial_of(const KernelOf& kernel, const Call& call,
                                const std::vector<Knobs>& candidates,
                                const std::vector<const Kernel*>& loaded, Device& device,
                                Stream stream) {
  const Call sized = small_enough(call);
  auto trial = std::make_unique<CallTrial>(sized, device, stream);
  if (!trial->has_tensors()) return nullptr;
  device.synchronize();  // what fills them is on no stream of ours
  for (size_t i = 0; i < candidates.size(); ++i) {
    Launch launch;
    if (loaded[i]) {
      launch = launch_of(kernel, sized, candidates[i]);
      launch.function = loaded[i]->function;
      device.allow_shared(launch.function, launch.shared_bytes);
      if (launch.blocks == 0) return nullptr;
    }
    trial->add(std::move(launch));
  }
  return trial;
}

}  // namespace liger
