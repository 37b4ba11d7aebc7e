#include "engine/tuning.h"

#include <bit>

#include "autotune/choice.h"
#include "engine/trial.h"
#include "runtime/compile/source_hash.h"

namespace liger {

namespace {

constexpr int64_t least_bytes_measured = int64_t{1} << 20;  // of all tensors

class TunableKernel final : public Tunable {
 public:
  TunableKernel(const KernelOf& kernel, const Call& call, const std::vector<Knobs>& candidates,
                Device& device, Stream stream)
      : Tunable(call.op().name, kernel.name, device, stream),
        kernel_(kernel),
        call_(call),
        candidates_(candidates) {}

  std::string identity() const override {
    std::string bytes;
    append_bytes(bytes, static_cast<int64_t>(reinterpret_cast<intptr_t>(&device)));
    append_bytes(bytes, bucket());
    append_bytes(bytes, kernel_.source);
    append_bytes(bytes, kernel_.name);
    append_bytes(bytes, kernel_.spec(call_));
    for (const Knobs& knobs : candidates_) {
      append_bytes(bytes, static_cast<int64_t>(knobs.size()));
      for (const Knob& knob : knobs) {
        append_bytes(bytes, knob.name);
        append_bytes(bytes, knob.value);
      }
    }
    return bytes;
  }

  std::string family() const override { return family_of(kernel_, call_); }
  int bucket() const override { return std::bit_width(static_cast<uint64_t>(rows_of_call(call_))); }

  std::vector<std::string> candidates() const override {
    std::vector<std::string> texts;
    for (const Knobs& knobs : candidates_) texts.push_back(text_of(knobs));
    return texts;
  }

  Unit unit(int candidate) const override {
    return unit_of(kernel_, call_, candidates_[candidate]);
  }

  std::unique_ptr<Trial> trial(const std::vector<const Kernel*>& loaded) const override {
    return trial_of(kernel_, call_, candidates_, loaded, device, stream);
  }

 private:
  const KernelOf& kernel_;
  const Call& call_;
  const std::vector<Knobs>& candidates_;
};

}  // namespace

bool worth_measuring(const Call& call) {
  return call.on_host() || bytes_of_call(call) >= least_bytes_measured;
}

std::string family_of(const KernelOf& kernel, const Call& call) {
  return source_hash(kernel.made_from(), kernel.spec(call)).hex();
}

ChosenKnobs choose_knobs(const KernelOf& kernel, const Call& call, Device& device, Stream stream,
                         bool may_measure) {
  const std::vector<Knobs> candidates = candidates_of(kernel, call);
  if (candidates.size() == 1 || !worth_measuring(call)) return {candidates.front()};
  const Choice choice =
      choose_candidate(TunableKernel(kernel, call, candidates, device, stream), may_measure);
  return {candidates[choice.candidate], choice.provisional};
}

}  // namespace liger
