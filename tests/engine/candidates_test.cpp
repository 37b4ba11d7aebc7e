// No candidate that an op lists fails to compile, on any target: calls are drawn at random, each
// the same in every run, and what they list is compiled. `make torture` draws many more.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/hash.h"
#include "base/shared_library.h"
#include "base/text.h"
#include "engine/arguments.h"
#include "engine/plan.h"
#include "engine/registry.h"
#include "engine/report/describe.h"
#include "runtime/backends.h"
#include "tests/repeats.h"
#include "tests/runtime/compile/ptx_linker.h"
#include "tests/runtime/compile/sample_unit.h"

namespace liger {
namespace {

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[below(values.size())];
  }
  size_t below(size_t count) { return engine_() % count; }
  bool one_in(size_t count) { return below(count) == 0; }

 private:
  std::mt19937_64 engine_;  // its numbers are the same everywhere
};

// Not all of these are what the op accepts.
class Draw {
 public:
  Draw(const Op& op, const Target& target, Dice& dice)
      : op_(op),
        dice_(dice),
        extent_(op.extent(
            {{"rows", dice.one_of<int64_t>({1, 5, 300, 5000})},
             {"size", dice.one_of<int64_t>({1, 7, 64, 100, 128, 1000, 1024, 2040, 2047, 4096, 5120,
                                            8200, 16384, 20000, 32000, 50257, 128256})},
             {"inner", dice.one_of<int64_t>({8, 64, 100, 1024, 4096})}})),
        dtype_(dice.one_of({Dtype::bf16, Dtype::f32, Dtype::f16,
                            target.backend == Backend::cpu ? Dtype::f64 : Dtype::bf16})) {
    call_ = example_call(op, dtype_, extent_, place_on(target, 0, 132));
    for (const Sample& sample : op.example(extent_)) {
      if (!sample.none) given_.insert(sample.input);
    }
    for (size_t i = 0; i < op.inputs.size(); ++i) vary(static_cast<int>(i));
  }

  // Nothing where the op refuses it, or wants a tensor copied first.
  std::optional<Call> call() const {
    try {
      check_call(*call_);
    } catch (const Error&) {
      return std::nullopt;
    }
    return copies_needed(*call_) == 0 ? call_ : std::nullopt;
  }

 private:
  void vary(int index) {
    const Input& input = op_.inputs[index];
    Scalar& scalar = call_->scalar(index);
    switch (input.kind) {
      case InputKind::flag:
        if (dice_.one_in(3)) scalar.integer = scalar.integer == 0;
        return;
      case InputKind::integer:  // what the example gives is a size
        if (dice_.one_in(3) && !given_.contains(input.name)) scalar.integer = dice_.below(3);
        return;
      case InputKind::real:
        if (dice_.one_in(3)) scalar.real = 0.1;
        return;
      case InputKind::mask:
        if (dice_.one_in(2)) scalar.integer = dice_.below(size_t{1} << input.mask_length);
        return;
      case InputKind::optional_tensor:
        if (dice_.one_in(3)) give_or_take(input, call_->tensor(index));
        break;
      case InputKind::tensor:
        break;
    }
    if (Tensor& tensor = call_->tensor(index); tensor.defined && dice_.one_in(4))
      move(input, tensor);
  }

  void give_or_take(const Input& input, Tensor& tensor) {
    if (tensor.defined) {
      tensor = {};
      return;
    }
    tensor.defined = true;
    const Dtype arithmetic = dtype_ == Dtype::f64 ? Dtype::f64 : Dtype::f32;
    tensor.dtype = input.dtypes.empty() ? dice_.one_of({arithmetic, dtype_}) : input.dtypes[0];
    tensor.dims = dice_.one_in(4) ? 0 : 1;
    tensor.sizes[0] = dice_.one_of({extent_["size"], extent_["rows"], extent_["inner"]});
    tensor.strides[0] = 1;
  }

  // To an address that no vector can be loaded from, or rows apart.
  void move(const Input& input, Tensor& tensor) {
    if (dice_.one_in(2)) {
      tensor.align_bytes = static_cast<int>(std::min<int64_t>(16, size_bytes(tensor.dtype)));
    } else if (input.layout != Layout::dense && tensor.dims == 2) {
      tensor.strides[0] += dice_.one_of<int64_t>({1, 8});
    }
  }

  const Op& op_;
  Dice& dice_;
  const Extent extent_;
  const Dtype dtype_;
  std::optional<Call> call_;
  std::set<std::string> given_;
};

struct Chosen {
  std::string op;
  Unit unit;
};

// Of each kernel `most` units at the most, of as many draws of its op as that takes.
std::vector<Chosen> drawn_units(const Target& target, int most) {
  constexpr int draws_of_unit = 40;
  std::vector<Chosen> chosen;
  for (const Op& op : registry()) {
    if (op.kernels.empty()) continue;
    EXPECT_TRUE(op.example) << op.name << " has kernels and no example";
    Dice dice(hash128(op.name + target.arch).low);
    std::map<std::string, std::set<std::string>> units_of_kernel;
    int accepted = 0;
    for (int draw = 0; draw < most * draws_of_unit; ++draw) {
      const auto call = Draw(op, target, dice).call();
      if (!call) continue;
      ++accepted;
      std::vector<PlannedUnit> units = units_of(*call, true);
      // One candidate of each kernel, so that every draw brings another call.
      std::map<std::string, std::vector<PlannedUnit>> by_kernel;
      for (PlannedUnit& one : units) by_kernel[one.unit.kernel].push_back(std::move(one));
      for (auto& [kernel, candidates] : by_kernel) {
        Unit& unit = candidates[dice.below(candidates.size())].unit;
        auto& known = units_of_kernel[kernel];
        if (static_cast<int>(known.size()) == most || !known.insert(unit.text).second) continue;
        chosen.push_back({op.name, std::move(unit)});
      }
    }
    EXPECT_GT(accepted, 0) << op.name << " accepted no call that was drawn";
  }
  return chosen;
}

std::string told(const Chosen& chosen, const Target& target, const std::string& words) {
  return fmt::format("{} of {} for {} does not compile:\n{}\n{}", chosen.unit.kernel, chosen.op,
                     target.arch, chosen.unit.text, words.substr(0, 2000));
}

// Of each op how many were tried and failed.
struct Count {
  std::set<std::string> kernels;
  int tried = 0;
  int failed = 0;
};

std::map<std::string, Count> expect_all_compile(const std::vector<Chosen>& chosen,
                                                const Target& target) {
  Compiler& compiler = compiler_for(target.backend);
  const auto linker = compiler.intermediate(target).empty() ? std::nullopt : PtxLinker::named();
  std::map<std::string, Count> counts;
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  const auto work = [&] {
    for (size_t i = next++; i < chosen.size(); i = next++) {
      std::string problem;
      try {
        const Binary binary = compiler.compile(chosen[i].unit, target);
        if (linker) linker->finish(binary.bytes, target.arch);
      } catch (const Error& error) {
        problem = error.what();
      }
      const std::lock_guard lock(mutex);
      Count& count = counts[chosen[i].op];
      count.kernels.insert(chosen[i].unit.kernel);
      ++count.tried;
      if (problem.empty()) continue;
      ++count.failed;
      ADD_FAILURE() << told(chosen[i], target, problem);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  return counts;
}

// `make nvrtc-table` names others.
std::vector<std::string> targets() {
  const char* const named = std::getenv("TORTURE_TARGETS");
  std::stringstream words(named ? named : "sm_80 sm_90a sm_120a gfx90a gfx1030 cpu");
  return {std::istream_iterator<std::string>(words), {}};
}

class CandidatesTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    set_hiprtc_helper(own_folder() + "/liger-hiprtc-helper");
    const CompilerState state = compiler_for(target_.backend).state();
    if (!state.found) GTEST_SKIP() << state.problem;
  }
  const Target target_ = parse_target(GetParam());
};

TEST_P(CandidatesTest, every_candidate_that_is_drawn_compiles) {
  const auto chosen = drawn_units(target_, repeats("TORTURE_CANDIDATES", 1));
  EXPECT_GT(chosen.size(), 20u);
  for (const auto& [op, count] : expect_all_compile(chosen, target_))
    RecordProperty(op, fmt::format("{} {} {}", count.kernels.size(), count.tried, count.failed));
  RecordProperty("made_for", compiler_for(target_.backend).intermediate(target_));
}

INSTANTIATE_TEST_SUITE_P(Targets, CandidatesTest, ::testing::ValuesIn(targets()),
                         [](const auto& named) { return named.param; });

// Rows of few classes, overwritten and not held: a wavefront of 64 threads has barriers in its
// reductions as two warps have.
TEST(Candidates, of_a_short_row_that_is_overwritten_compile_for_wavefronts_of_64) {
  set_hiprtc_helper(own_folder() + "/liger-hiprtc-helper");
  const Target target = parse_target("gfx90a");
  if (const CompilerState state = compiler_for(target.backend).state(); !state.found)
    GTEST_SKIP() << state.problem;
  const Op& op = op_named("cross_entropy_chunk_");
  const Call call = example_call(op, Dtype::bf16, {{"rows", 64}, {"size", 1000}}, place_on(target));
  std::vector<Chosen> chosen;
  for (PlannedUnit& planned : units_of(call, true))
    chosen.push_back({op.name, std::move(planned.unit)});
  ASSERT_EQ(chosen.size(), 3u);
  expect_all_compile(chosen, target);
}

}  // namespace
}  // namespace liger
