// The host compiler and the host device together: text in, numbers out.
#include <gtest/gtest.h>

#include <thread>

#include "base/environment.h"
#include "base/error.h"
#include "base/process.h"
#include "runtime/kernels.h"
#include "tests/runtime/compile/sample_unit.h"

namespace liger {
namespace {

class HostTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const CompilerState state = compiler_for(Backend::cpu).state();
    if (!state.found) GTEST_SKIP() << state.problem;
  }
  const Target target_ = parse_target("cpu");
};

void in_threads(int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  std::vector<std::thread> threads;
  for (int64_t part = 0; part < 4; ++part)
    threads.emplace_back([=, &body] { body(count * part / 4, count * (part + 1) / 4); });
  for (std::thread& thread : threads) thread.join();
}

std::vector<float> scaled(Device& device, Function* function, int64_t count) {
  std::vector<float> x(count), y(count, -1);
  for (int64_t i = 0; i < count; ++i) x[i] = static_cast<float>(i);
  const ScaleArguments arguments{x.data(), y.data()};
  device.launch(function, count, 1, &arguments, sizeof(arguments), nullptr);
  device.synchronize();
  return y;
}

TEST_F(HostTest, parallel_runner_covers_each_block_once) {
  Device& device = liger::device(Backend::cpu, 0);
  Function* function =
      device.load(compiler_for(Backend::cpu).compile(scale_unit(3), target_), "liger_Scale");
  const int64_t count = 1003;  // not a multiple of the parts
  for (const ParallelFor parallel_for : {ParallelFor{nullptr}, ParallelFor{in_threads}}) {
    set_parallel_for(parallel_for, 4);
    EXPECT_EQ(device.properties().multiprocessors, parallel_for ? 4 : 1);
    const std::vector<float> y = scaled(device, function, count);
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(y[i], 3.0f * static_cast<float>(i));
  }
  set_parallel_for(nullptr, 1);
}

// Descriptors are used again, and the loader knows libraries by their paths.
TEST_F(HostTest, kernels_loaded_one_after_another_are_different) {
  Device& device = liger::device(Backend::cpu, 0);
  for (int factor = 2; factor < 6; ++factor) {
    Function* function =
        device.load(compiler_for(Backend::cpu).compile(scale_unit(factor), target_), "liger_Scale");
    EXPECT_EQ(scaled(device, function, 2)[1], static_cast<float>(factor));
  }
}

TEST_F(HostTest, no_blocks_is_no_launch) {
  Device& device = liger::device(Backend::cpu, 0);
  Function* function =
      device.load(compiler_for(Backend::cpu).compile(scale_unit(3), target_), "liger_Scale");
  device.launch(function, 0, 1, nullptr, 0, nullptr);
}

TEST_F(HostTest, bytes_that_are_no_library_are_a_device_error) {
  try {
    liger::device(Backend::cpu, 0).load(Binary{"not a library", {}, 0}, "liger_Scale");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::device);
  }
}

TEST_F(HostTest, wrong_source_gives_the_words_of_the_compiler_and_the_unit) {
  try {
    compiler_for(Backend::cpu).compile(broken_unit(), target_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::compile);
    EXPECT_NE(std::string(error.what()).find("error: "), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("no_such_type here"), std::string::npos);
  }
}

TEST_F(HostTest, machine_code_of_another_processor_is_unsupported) {
  const char* other = target_.arch == "armv8-a" ? "x86-64-v3" : "armv8-a";
  try {
    compiler_for(Backend::cpu).compile(scale_unit(2), parse_target(other));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
  }
}

TEST_F(HostTest, library_holds_no_path_and_two_compiles_give_the_same_bytes) {
  const Binary first = compiler_for(Backend::cpu).compile(scale_unit(2), target_);
  const Binary second = compiler_for(Backend::cpu).compile(scale_unit(2), target_);
  EXPECT_EQ(first.bytes, second.bytes);
  for (const char* path : {"/tmp/", "/home/", "/usr/"})
    EXPECT_EQ(first.bytes.find(path), std::string::npos) << path;
}

TEST_F(HostTest, memory_for_tuning_can_be_written_and_too_much_is_null) {
  Device& device = liger::device(Backend::cpu, 0);
  const float value = 3;
  auto* const memory = static_cast<float*>(device.allocate(2 * sizeof(value)));
  ASSERT_NE(memory, nullptr);
  EXPECT_TRUE(device.write(memory, &value, sizeof(value)));
  EXPECT_TRUE(device.copy(memory + 1, memory, sizeof(value)));
  EXPECT_EQ(memory[1], 3);
  device.release(memory);
  EXPECT_EQ(device.allocate(size_t{1} << 60), nullptr);
}

// In a process of its own, for the environment is read once.
TEST(MissingCompilerTest, message_says_where_it_was_looked_for) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto ask = [](const char* variable, const char* value) {
    setenv(variable, value, 1);
    const CompilerState state = compiler_for(Backend::cpu).state();
    fprintf(stderr, "found=%d %s", state.found, state.problem.c_str());
    exit(0);
  };
  EXPECT_EXIT(ask("PATH", "/nonexistent"), ::testing::ExitedWithCode(0),
              "found=0 .*c\\+\\+, g\\+\\+ and clang\\+\\+ on PATH.*LIGER_JIT_CXX");
  EXPECT_EXIT(ask("LIGER_JIT_CXX", "/nonexistent/cc"), ::testing::ExitedWithCode(0),
              "found=0 LIGER_JIT_CXX names \"/nonexistent/cc\"");
}

}  // namespace
}  // namespace liger
