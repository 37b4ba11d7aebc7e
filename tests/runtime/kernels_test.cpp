// Process table, disk and compiler: who is asked, how often, and what a damaged entry does.
#include "runtime/kernels.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "base/counters.h"
#include "base/error.h"
#include "cache/store.h"
#include "tests/runtime/compile/sample_unit.h"

namespace liger {
namespace {

class KernelsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const CompilerState state = compiler_for(Backend::cpu).state();
    if (!state.found) GTEST_SKIP() << state.problem;
  }
  const Target target_ = parse_target("cpu");
};

float scaled_one(const Kernel& kernel) {
  float x = 1, y = 0;
  const ScaleArguments arguments{&x, &y};
  kernel.device->launch(kernel.function, 1, 1, &arguments, sizeof(arguments), nullptr);
  return y;
}

// Runs `child` in a process that has this one's disk and none of its tables; true if it gave true.
template <typename Child>
bool in_fork(Child child) {
  const pid_t pid = fork();
  if (pid == 0) {
    bool passed = false;
    try {
      passed = child();
    } catch (const std::exception& error) {
      fprintf(stderr, "%s\n", error.what());
    }
    _exit(passed ? 0 : 1);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST_F(KernelsTest, thirty_two_threads_compile_one_key_once) {
  const uint64_t compiled_before = counters().compiled;
  Device& device = liger::device(Backend::cpu, 0);
  std::vector<const Kernel*> kernels(32);
  std::vector<std::thread> threads;
  for (const Kernel*& slot : kernels)
    threads.emplace_back([&] { slot = kernel(scale_unit(100), device); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counters().compiled, compiled_before + 1);
  for (const Kernel* each : kernels) EXPECT_EQ(each, kernels[0]);
  EXPECT_EQ(scaled_one(*kernels[0]), 100);
  EXPECT_EQ(kernels[0]->name, "Scale");
}

TEST_F(KernelsTest, second_process_takes_the_entry_from_disk) {
  const Binary compiled = *artifact(scale_unit(101), target_);
  EXPECT_TRUE(in_fork([&] {
    const uint64_t compiled_before = counters().compiled;
    const uint64_t from_disk_before = counters().hit_disk;
    const auto again = artifact(scale_unit(101), target_);
    return counters().compiled == compiled_before && counters().hit_disk == from_disk_before + 1 &&
           again->bytes == compiled.bytes && again->resources.registers == -1 &&
           again->compile_ms > 0;
  }));
}

TEST_F(KernelsTest, damaged_entry_is_compiled_again_with_the_same_result) {
  const std::string good = artifact(scale_unit(102), target_)->bytes;
  const Key key = artifact_key(scale_unit(102), target_);
  for (const StoredFile& file : Store::user().list()) {
    if (!file.entry || file.entry->key_bytes != key.bytes()) continue;
    FILE* stream = fopen(file.path.c_str(), "r+b");
    fseek(stream, -1, SEEK_END);
    fputc(~good.back(), stream);
    fclose(stream);
  }
  EXPECT_TRUE(in_fork([&] {
    const uint64_t compiled_before = counters().compiled;
    const Kernel* found = kernel(scale_unit(102), device(Backend::cpu, 0));
    return counters().compiled == compiled_before + 1 && scaled_one(*found) == 102;
  }));
  EXPECT_EQ(Store::user().read(EntryKind::artifact, key)->payload, good);
}

// It verifies, so only the loader can tell that it is no library.
TEST_F(KernelsTest, entry_that_the_loader_refuses_is_replaced) {
  const Key key = artifact_key(scale_unit(103), target_);
  Store::user().publish(EntryKind::artifact, key, "symbol=liger_Scale\n", "not a library");
  const uint64_t compiled_before = counters().compiled;
  EXPECT_EQ(scaled_one(*kernel(scale_unit(103), device(Backend::cpu, 0))), 103);
  EXPECT_EQ(counters().compiled, compiled_before + 1);
  EXPECT_NE(Store::user().read(EntryKind::artifact, key)->payload, "not a library");
}

// The library's own folder gets what was compiled instead; the site's is not ours to mend.
TEST_F(KernelsTest, entry_of_a_readonly_folder_that_the_loader_refuses_stays_there) {
  const Key key = artifact_key(scale_unit(111), target_);
  Store site(test_site_folder());
  site.publish(EntryKind::artifact, key, "symbol=liger_entry\n", "not a library");
  const uint64_t from_site_before = counters().hit_readonly;
  EXPECT_EQ(scaled_one(*kernel(scale_unit(111), device(Backend::cpu, 0))), 111);
  EXPECT_EQ(counters().hit_readonly, from_site_before + 1);
  EXPECT_EQ(site.read(EntryKind::artifact, key)->payload, "not a library");
  EXPECT_NE(Store(test_cache_folder()).read(EntryKind::artifact, key)->payload, "not a library");
}

// In a process of its own and without a fixture, for the environment is read once.
TEST(OfflineKernelTest, entry_that_the_loader_refuses_is_an_error_that_says_so) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto ask_offline = [] {
    setenv("LIGER_JIT_CACHE_MODE", "offline", 1);
    const Key key = artifact_key(scale_unit(112), parse_target("cpu"));
    Store(test_cache_folder())
        .publish(EntryKind::artifact, key, "symbol=liger_Scale\n", "no library");
    try {
      kernel(scale_unit(112), device(Backend::cpu, 0));
    } catch (const Error& error) {
      const bool stays = Store(test_cache_folder()).read(EntryKind::artifact, key).has_value();
      fprintf(stderr, "compiled=%lu stays=%d %s", counters().compiled.load(), stays, error.what());
    }
    exit(0);
  };
  EXPECT_EXIT(ask_offline(), ::testing::ExitedWithCode(0),
              "compiled=0 stays=1 Scale .*was found, but the loader refused.*"
              "LIGER_JIT_CACHE_MODE=offline forbids to compile it. Run once");
}

TEST_F(KernelsTest, nothing_is_loaded_when_it_may_not) {
  Device& device = liger::device(Backend::cpu, 0);
  EXPECT_EQ(kernel(scale_unit(104), device, false), nullptr);
  const Kernel* found = kernel(scale_unit(104), device);
  const uint64_t hits_before = counters().hit_memory;
  EXPECT_EQ(kernel(scale_unit(104), device, false), found);
  EXPECT_EQ(counters().hit_memory, hits_before + 1);
}

TEST_F(KernelsTest, failure_is_not_remembered) {
  const uint64_t compiled_before = counters().compiled;
  for (int attempt = 0; attempt < 2; ++attempt)
    EXPECT_THROW(artifact(broken_unit(), target_), Error);
  EXPECT_EQ(counters().compiled, compiled_before + 2);
}

TEST_F(KernelsTest, prefetched_artifacts_are_there_when_asked_for) {
  wait_for_background_compiles();
  std::vector<std::shared_future<std::shared_ptr<const Binary>>> futures;
  for (int factor = 105; factor < 109; ++factor)
    futures.push_back(compile_in_background(scale_unit(factor), target_));
  futures.push_back(compile_in_background(broken_unit(), target_));
  std::vector<int> told;
  const int made = wait_for_background_compiles([&](int done, int total) {
    EXPECT_EQ(total, 5);
    told.push_back(done);
  });
  EXPECT_EQ(made, 4);
  EXPECT_EQ(told.back(), 5);
  EXPECT_THROW(futures[4].get(), Error);
  const uint64_t compiled_before = counters().compiled;
  EXPECT_EQ(artifact(scale_unit(105), target_), futures[0].get());
  EXPECT_EQ(counters().compiled, compiled_before);
  EXPECT_EQ(wait_for_background_compiles(), 0);
}

TEST_F(KernelsTest, forked_child_does_not_wait_for_a_compile_of_its_parent) {
  const auto future = compile_in_background(scale_unit(109), target_);
  EXPECT_TRUE(in_fork([&] {
    return artifact(scale_unit(109), target_)->bytes.size() > 0 &&
           compile_in_background(scale_unit(110), target_).get() != nullptr;
  }));
  EXPECT_NE(future.get(), nullptr);
}

TEST_F(KernelsTest, process_that_ends_while_compiling_ends_well) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        for (int factor = 200; factor < 220; ++factor)
          compile_in_background(scale_unit(factor), target_);
        exit(0);
      },
      ::testing::ExitedWithCode(0), "");
}

// A GPU newer than NVRTC, with a driver that does not finish intermediate code.
class RefusingDevice final : public Device {
 public:
  RefusingDevice() { properties_.target = parse_target("sm_999"); }
  const DeviceProperties& properties() const override { return properties_; }
  Function* load(const Binary&, const std::string&) override {
    throw Error(ErrorKind::device, "loading a kernel failed: words of the driver");
  }
  void allow_shared(Function*, int) override {}
  void launch(Function*, int64_t, int, const void*, size_t, Stream, int) override {}
  uint64_t capture(Stream) override { return 0; }
  void synchronize() override {}
  void* allocate(size_t) override { return nullptr; }
  void release(void*) override {}
  bool write(void*, const void*, size_t) override { return false; }
  bool copy(void*, const void*, size_t) override { return false; }
  double time_ms(Stream, const std::function<void()>&) override { return 0; }
  Fault* fault() override { return nullptr; }
  void* fault_pointer() override { return nullptr; }

 private:
  DeviceProperties properties_;
};

TEST(IntermediateCodeTest, that_a_driver_refuses_is_told_with_what_to_install) {
  Compiler& compiler = compiler_for(Backend::cuda);
  if (const CompilerState state = compiler.state(); !state.found) GTEST_SKIP() << state.problem;
  static RefusingDevice device;  // kernels of a device are kept for the life of the process
  for (const char* time : {"compiled", "from the cache"}) {
    try {
      kernel(scale_unit(104), device);
      FAIL() << time;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::device);
      const std::string words = error.what();
      for (const std::string& part :
           {std::string("Scale for sm_999: "), std::string("words of the driver"),
            compiler.intermediate(device.properties().target), compiler.state().version,
            std::string("pip install --upgrade nvidia-cuda-nvrtc")})
        EXPECT_NE(words.find(part), std::string::npos) << part << " is not in: " << words;
    }
  }
}

}  // namespace
}  // namespace liger
