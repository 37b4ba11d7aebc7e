#include "runtime/device/device.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <map>
#include <mutex>

#include "base/error.h"
#include "base/process_state.h"
#include "base/text.h"
#include "runtime/backends.h"

namespace liger {

std::string fault_layout() {
  const std::pair<const char*, size_t> fields[] = {
      {"state", offsetof(Fault, state)}, {"blamed", offsetof(Fault, blamed)},
      {"check", offsetof(Fault, check)}, {"place", offsetof(Fault, place)},
      {"value", offsetof(Fault, value)}, {"limit", offsetof(Fault, limit)}};
  std::string lines;
  for (const auto& [field, offset] : fields)
    lines += fmt::format("LIGER_FAULT_FIELD({}, {})\n", field, offset);
  return lines + fmt::format("LIGER_FAULT_BYTES({})\n", sizeof(Fault));
}

int device_count(Backend backend) {
  switch (backend) {
    case Backend::cuda:
      return cuda_device_count();
    case Backend::hip:
      return hip_device_count();
    case Backend::cpu:
      break;
  }
  return 1;
}

std::string device_problem(Backend backend) {
  switch (backend) {
    case Backend::cuda:
      return cuda_problem();
    case Backend::hip:
      return hip_problem();
    case Backend::cpu:
      break;
  }
  return {};
}

namespace {

struct Devices {
  std::mutex mutex;
  std::map<std::pair<Backend, int>, std::unique_ptr<Device>> by_ordinal;
};

Devices& devices() { return ProcessState<Devices>::get(); }

// Those already made, for calls: they take no lock.
constexpr int most_backends = 4;
constexpr int most_ordinals = 64;
std::array<std::array<std::atomic<Device*>, most_ordinals>, most_backends> made;

std::atomic<Device*>* place_of(Backend backend, int ordinal) {
  const bool inside = ordinal >= 0 && ordinal < most_ordinals;
  return inside ? &made[static_cast<size_t>(backend)][static_cast<size_t>(ordinal)] : nullptr;
}

Device& make_or_find(Backend backend, int ordinal) {
  const std::lock_guard lock(devices().mutex);
  std::unique_ptr<Device>& slot = devices().by_ordinal[{backend, ordinal}];
  if (slot) return *slot;

  if (const std::string problem = device_problem(backend); !problem.empty())
    throw Error(ErrorKind::device, problem);
  const int count = device_count(backend);
  if (ordinal < 0 || ordinal >= count)
    throw Error(ErrorKind::device, fmt::format("{} device {} does not exist: there are {}",
                                               name_of(backend), ordinal, count));
  switch (backend) {
    case Backend::cuda:
      slot = make_cuda_device(ordinal);
      break;
    case Backend::hip:
      slot = make_hip_device(ordinal);
      break;
    case Backend::cpu:
      slot = make_host_device();
      break;
  }
  return *slot;
}

}  // namespace

std::vector<Device*> open_devices(Backend backend) {
  const std::lock_guard lock(devices().mutex);
  std::vector<Device*> open;
  for (const auto& [place, device] : devices().by_ordinal)
    if (place.first == backend && device) open.push_back(device.get());
  return open;
}

Device& device(Backend backend, int ordinal) {
  std::atomic<Device*>* const place = place_of(backend, ordinal);
  Device* const found = place ? place->load(std::memory_order_acquire) : nullptr;
  if (found) return *found;
  Device& device = make_or_find(backend, ordinal);
  if (place) place->store(&device, std::memory_order_release);
  return device;
}

}  // namespace liger
