#include "ops/gated.h"
#include "ops/registry.h"

namespace liger {
namespace {

const std::vector<GatedKernel> variants = {
    {"GegluTanh", [](const Call& call) { return !call.flag("exact"); }},
    {"GegluErf", [](const Call& call) { return call.flag("exact"); }},
};

const Register geglu{
    gated_op("geglu", "y = gelu(gate) * up, GELU in its tanh form, or with erf when `exact`",
             "geglu.h", {flag("exact")}, variants)};
const Register geglu_backward{
    gated_backward_op("geglu_backward", "geglu.h", {flag("exact")}, variants)};

}  // namespace
}  // namespace liger
