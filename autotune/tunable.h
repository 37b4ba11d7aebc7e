// What the tuner knows of what it tunes: a kernel in several candidates, which give the same bits,
// and how one is loaded and launched.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/compile/unit.h"
#include "runtime/device/device.h"
#include "runtime/kernels.h"

namespace liger {

// Memory to launch candidates on. Used by one thread, owned by the search.
class Trial {
 public:
  virtual ~Trial() = default;
  // Starts one. The next launch finds its inputs in no cache of the device. Raises Error(device).
  virtual void launch(int candidate) = 0;
};

// Candidates go by their index. Lives for one choice and is used by its thread alone.
class Tunable {
 public:
  Tunable(std::string_view op, std::string_view kernel, Device& device, Stream stream)
      : op(op), kernel(kernel), device(device), stream(stream) {}
  virtual ~Tunable() = default;

  const std::string_view op;  // for the log
  const std::string_view kernel;
  Device& device;
  const Stream stream;

  // All that the choice depends on and that may differ between choices of one process, as bytes. It
  // is the only thing that is asked where the answer is known, so it puts no source together.
  virtual std::string identity() const = 0;

  // What is compiled but for the candidate, as a hash, and the binary order of magnitude of the
  // work: of the key of the record.
  virtual std::string family() const = 0;
  virtual int bucket() const = 0;

  // As records have them, `threads=128,rows=2`. At least one; the first stands until one is chosen.
  virtual std::vector<std::string> candidates() const = 0;
  virtual Unit unit(int candidate) const = 0;

  // For those candidates that have a kernel, by index. Null where there is not enough memory, or
  // nothing to launch.
  virtual std::unique_ptr<Trial> trial(const std::vector<const Kernel*>& loaded) const = 0;
};

}  // namespace liger
