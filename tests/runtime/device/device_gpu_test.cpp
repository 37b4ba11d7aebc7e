// A real GPU of either vendor. Host memory that the device sees (that of the fault) carries results
// back.
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "base/error.h"
#include "base/shared_library.h"
#include "runtime/device/device_gpu.h"
#include "runtime/kernels.h"
#include "tests/runtime/compile/sample_unit.h"

namespace liger {
namespace {

class GpuTest : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    if (const std::string problem = device_problem(GetParam()); !problem.empty())
      GTEST_SKIP() << problem;
    if (const CompilerState state = compiler_for(GetParam()).state(); !state.found)
      GTEST_SKIP() << state.problem;
    device_ = &device(GetParam(), 0);
  }

  // The four first results of a launch over x = 1, 2, 3, 4.
  std::vector<float> results(Function* function, Stream stream = nullptr) {
    const std::vector<float> x = {1, 2, 3, 4};
    const size_t size_bytes = x.size() * sizeof(float);
    void* const memory = device_->allocate(size_bytes);
    void* const written = device_->allocate(size_bytes);
    EXPECT_TRUE(device_->write(written, x.data(), size_bytes));
    EXPECT_TRUE(device_->copy(memory, written, size_bytes));
    const ScaleArguments arguments{static_cast<float*>(memory),
                                   static_cast<float*>(device_->fault_pointer())};
    device_->launch(function, 4, 32, &arguments, sizeof(arguments), stream);
    device_->synchronize();
    std::vector<float> y(x.size());
    Fault* fault = device_->fault();
    memcpy(y.data(), static_cast<void*>(fault), size_bytes);
    new (fault) Fault;
    device_->release(memory);
    device_->release(written);
    return y;
  }

  Device* device_ = nullptr;
};

TEST_P(GpuTest, properties_are_those_of_a_gpu) {
  const DeviceProperties& properties = device_->properties();
  EXPECT_EQ(parse_target(properties.target.arch), properties.target);
  EXPECT_FALSE(properties.name.empty());
  EXPECT_GT(properties.multiprocessors, 1);
  EXPECT_GT(properties.l2_bytes, 1 << 16);
  EXPECT_GE(properties.shared_bytes_per_block, 32 << 10);
  EXPECT_GE(properties.bandwidth_class, 64);
  EXPECT_GE(device_count(GetParam()), 1);
  EXPECT_THROW(device(GetParam(), device_count(GetParam())), Error);
}

TEST_P(GpuTest, kernel_computes_also_on_a_thread_that_never_used_the_device) {
  const Kernel* scale = kernel(scale_unit(7), *device_);
  EXPECT_GT(scale->resources.registers, 0);
  const std::vector<float> expected = {7, 14, 21, 28};
  EXPECT_EQ(results(scale->function), expected);
  std::thread([&] { EXPECT_EQ(results(scale->function), expected); }).join();
}

TEST_P(GpuTest, times_are_those_of_the_device) {
  const Kernel* scale = kernel(scale_unit(7), *device_);
  void* memory = device_->allocate(1 << 22);
  const ScaleArguments arguments{static_cast<float*>(memory), static_cast<float*>(memory)};
  const auto launch = [&](int64_t blocks) {
    return device_->time_ms(nullptr, [&] {
      device_->launch(scale->function, blocks, 256, &arguments, sizeof(arguments), nullptr);
    });
  };
  launch(1 << 20);
  EXPECT_GT(launch(1 << 20), launch(1));
  device_->release(memory);
}

TEST_P(GpuTest, what_cannot_be_is_refused) {
  const Kernel* scale = kernel(scale_unit(7), *device_);
  const ScaleArguments arguments{};
  EXPECT_THROW(device_->launch(scale->function, int64_t{1} << 31, 32, &arguments, sizeof(arguments),
                               nullptr),
               Error);
  device_->launch(scale->function, 0, 32, &arguments, sizeof(arguments), nullptr);
  EXPECT_EQ(device_->allocate(size_t{1} << 50), nullptr);
  try {
    device_->load(Binary{"not a kernel", {}, 0}, "liger_Scale");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::device);
  }
  EXPECT_EQ(results(scale->function)[3], 28);  // nothing of this harms the next launch
}

// For a GPU that NVRTC does not know it makes code that may be newer than this GPU, or not.
TEST_P(GpuTest, code_that_the_driver_finishes_computes_unless_it_is_for_newer_gpus) {
  if (GetParam() != Backend::cuda) GTEST_SKIP() << "hipRTC makes machine code only";
  Compiler& compiler = compiler_for(Backend::cuda);
  const Target newer = parse_target("sm_999");
  const std::string other = compiler.intermediate(newer);
  ASSERT_TRUE(other.starts_with("compute_")) << other;
  const Binary binary = compiler.compile(scale_unit(7), newer);
  if (std::stoi(other.substr(8)) <= compute_capability(device_->properties().target)) {
    const std::vector<float> expected = {7, 14, 21, 28};
    EXPECT_EQ(results(device_->load(binary, "liger_Scale")), expected);
  } else {
    EXPECT_THROW(device_->load(binary, "liger_Scale"), Error);
  }
}

// The strictest mode of capture: other threads' and the same thread's careless calls would end it.
TEST_P(GpuTest, loading_leaves_a_capture_on_another_stream_alone) {
  if (GetParam() != Backend::cuda) GTEST_SKIP() << "streams are made through the CUDA driver";
  const SharedLibrary driver({"libcuda.so.1"});
  const auto create = driver.function<int(Stream*, unsigned)>("cuStreamCreate");
  const auto begin = driver.function<int(Stream, int mode)>("cuStreamBeginCapture_v2");
  const auto end = driver.function<int(Stream, void** graph)>("cuStreamEndCapture");
  Stream stream = nullptr;
  ASSERT_EQ(create(&stream, 1), 0);  // not blocked by the legacy stream
  EXPECT_FALSE(device_->capturing(stream));
  EXPECT_FALSE(device_->capturing(nullptr));

  const Kernel* loaded_before = kernel(scale_unit(7), *device_);
  ASSERT_EQ(begin(stream, 0), 0);  // 0: global
  EXPECT_TRUE(device_->capturing(stream));
  const uint64_t first_capture = device_->capture(stream);
  EXPECT_EQ(device_->capture(stream), first_capture);
  const ScaleArguments arguments{};
  device_->launch(loaded_before->function, 1, 32, &arguments, sizeof(arguments), stream);
  EXPECT_NE(kernel(scale_unit(8), *device_), nullptr);
  std::thread([&] { EXPECT_NE(kernel(scale_unit(9), *device_), nullptr); }).join();
  device_->release(device_->allocate(1024));
  void* graph = nullptr;
  EXPECT_EQ(end(stream, &graph), 0);
  EXPECT_NE(graph, nullptr);
  EXPECT_EQ(device_->capture(stream), 0u);
  ASSERT_EQ(begin(stream, 0), 0);
  EXPECT_NE(device_->capture(stream), first_capture);
  EXPECT_EQ(end(stream, &graph), 0);
  EXPECT_EQ(results(kernel(scale_unit(9), *device_)->function, stream)[0], 9);
}

INSTANTIATE_TEST_SUITE_P(EachVendor, GpuTest, ::testing::Values(Backend::cuda, Backend::hip),
                         [](const auto& vendor) { return std::string(name_of(vendor.param)); });

TEST(BandwidthTest, class_is_the_nearest_power_of_two) {
  EXPECT_EQ(bandwidth_class(2619000, 5120), 4096);  // H100 SXM: 3352 GB/s
  EXPECT_EQ(bandwidth_class(1593000, 5120), 2048);  // A100 80 GB: 2039 GB/s
  EXPECT_EQ(bandwidth_class(0, 5120), 0);
}

}  // namespace
}  // namespace liger
