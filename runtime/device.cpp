#include "runtime/device.h"

#include <map>
#include <mutex>

#include "base/error.h"
#include "base/text.h"
#include "runtime/backends.h"

namespace liger {

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

Device& device(Backend backend, int ordinal) {
  static std::mutex* const mutex = new std::mutex;
  static auto* const devices = new std::map<std::pair<Backend, int>, std::unique_ptr<Device>>;
  const std::lock_guard lock(*mutex);
  std::unique_ptr<Device>& slot = (*devices)[{backend, ordinal}];
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

}  // namespace liger
