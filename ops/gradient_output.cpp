#include "ops/gradient_output.h"

namespace liger {

Output gradient_output(std::string name, std::string of, std::string typed_as, int bit,
                       std::string mask_name) {
  return {std::move(name),
          [of, bit, mask_name](const Call& call) {
            return call.has(of) && call.wants_grad(bit, mask_name) ? like(of) : empty();
          },
          [typed_as](const Call& call) { return call[typed_as].dtype; }, false};
}

}  // namespace liger
