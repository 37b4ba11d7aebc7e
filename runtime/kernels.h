// From a unit to a kernel that can be launched: process table, then disk, then compiler. One
// compile for a key in flight: other threads wait for its result, and other processes of the node
// and ranks of the job do so within reason (runtime/share/obtain_once.h). All of this is thread
// safe.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "cache/key.h"
#include "runtime/device/device.h"

namespace liger {

// The compiler that keys of that target name: the one of this machine or, where there is none, the
// first of the builds that serve instead (runtime/compile/served_builds.h). Raises Error(compile)
// when there is neither.
std::string compiler_identity(const Target& target);

// False where LIGER_JIT_CACHE_MODE=offline forbids it or no compiler is found: then nobody searches
// for the fastest candidate.
bool may_compile(const Target& target);

// The artifact key of docs/architecture.md. No path, user, host, time, driver or torch version is
// in it. Without a compiler it is that of the best build which the cache has the kernel of.
Key artifact_key(const Unit& unit, const Target& target);

// From the process, the disk or the compiler; published on disk after a compile.
// Raises Error(compile) or Error(unsupported); a failure is not remembered.
std::shared_ptr<const Binary> artifact(const Unit& unit, const Target& target);

// Whether another process compiles it at this moment, so that there is better work to do first.
// Raises Error(compile) when the compiler is missing.
bool is_made_elsewhere(const Unit& unit, const Target& target);

// Only read once it is loaded. Owned by the process, never destroyed.
struct Kernel {
  std::string name;
  Device* device = nullptr;
  Function* function = nullptr;
  Resources resources;
};

// Loaded once for each device. The reference stays valid for the life of the process.
// Where it may not load, as in a capture, null is returned for a kernel not yet loaded.
const Kernel* kernel(const Unit& unit, Device& device, bool may_load = true);

// The same for make_unit(made_from, spec). The unit is not made where its kernel is loaded.
const Kernel* kernel(const KernelTemplate& made_from, const Spec& spec, Device& device,
                     bool may_load = true);

enum class Urgency { awaited, soon, later };

// A few threads of low priority that make artifacts ahead of their use, the urgent ones first.
// What has time until later gets half of them, or the one there is: compiles that run at once hold
// each other up, and somebody may want one now. The future becomes ready when the artifact is
// there or has failed (the error is inside).
std::shared_future<std::shared_ptr<const Binary>> compile_in_background(
    Unit unit, Target target, Urgency urgency = Urgency::soon);

// Drops what is queued, for a process that ends: its futures never become ready. What runs goes on.
void end_background_compiles();

// Whether some that nobody awaits are not done. Takes no lock.
bool background_compiles_pending();

// Blocks until the pool is idle; returns the number of artifacts made since the last call.
int wait_for_background_compiles(const std::function<void(int done, int total)>& progress = {});

struct BackgroundProgress {  // since the last wait
  int done = 0;
  int total = 0;
  int failed = 0;
};
BackgroundProgress background_progress();

}  // namespace liger
