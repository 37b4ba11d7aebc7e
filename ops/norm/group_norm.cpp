#include <algorithm>
#include <bit>
#include <numeric>

#include "base/parts.h"
#include "base/text.h"
#include "engine/registry.h"
#include "ops/norm/norm.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

Dtype x_dtype(const Call& call) { return call["x"].dtype; }
Dtype statistics_dtype(const Call& call) { return arithmetic(x_dtype(call)); }
Dtype type_of_weight(const Call& call) { return weight_dtype(call, "x"); }
Dtype type_of_bias(const Call& call) {
  return call.has("bias") ? call["bias"].dtype : x_dtype(call);
}

bool wants_dx(const Call& call) { return call.wants_grad(0); }
bool wants_dweight(const Call& call) { return call.wants_grad(1) && call.has("weight"); }
bool wants_dbias(const Call& call) { return call.wants_grad(2) && call.has("bias"); }

int64_t batch_of(const Call& call) { return call["x"].sizes[0]; }
int64_t channels_of(const Call& call) { return call["x"].sizes[1]; }
int64_t groups_of(const Call& call) { return call.integer("num_groups"); }
int64_t channels_of_group(const Call& call) { return channels_of(call) / groups_of(call); }
bool any_elements(const Call& call) { return call["x"].count() > 0; }

// Elements of a channel.
int64_t inner_of(const Call& call) {
  int64_t product = 1;
  for (int dim = 2; dim < call["x"].dims; ++dim) product *= call["x"].sizes[dim];
  return product;
}

// What the address of each channel is a multiple of.
int64_t alignment_of(const Call& call, bool with_dy) {
  if (call.on_host()) return 2;  // means nothing there
  const int64_t channel_bytes = inner_of(call) * size_bytes(x_dtype(call));
  int64_t align = std::gcd<int64_t>(16, channel_bytes);
  align = std::min<int64_t>(align, call["x"].align_bytes);
  return with_dy ? std::min<int64_t>(align, call["dy"].align_bytes) : align;
}

// How blocks share a group, and how many registers of a thread hold its part.
struct Deal {
  int64_t threads;
  int64_t rows;
  int64_t cluster;
  int64_t held;

  Knobs knobs(bool hold) const {
    return {{"hold", hold ? 1 : 0}, {"threads", threads}, {"rows", rows}, {"cluster", cluster}};
  }
};

constexpr int64_t lanes = 32;             // of a warp
constexpr int64_t wanted_registers = 32;  // as many bytes on their way as hide the memory's latency
constexpr int64_t most_registers = 64;
constexpr int64_t most_places = 1024;  // channels of a group whose sums have places of their own

// The deal of `block` threads, at most, in as few turns as they allow.
Deal deal_of(const Call& call, int arrays, int64_t cluster, int64_t block) {
  const int64_t packs = packs_of(inner_of(call));
  const int64_t of_block = channels_of_group(call) / cluster;
  const auto most_threads = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(packs)));
  const auto share = std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(block / of_block, 1)));
  const int64_t threads = std::min(most_threads, std::max<int64_t>(share, lanes));
  int64_t rows = std::min(block / threads, of_block);
  if (of_block > most_places)
    rows = std::bit_floor(static_cast<uint64_t>(rows));  // see GroupOf::places
  rows = std::max(rows, lanes / threads);                // a whole warp, whoever is idle
  const int64_t turns = parts(of_block, rows);
  const int64_t slots = parts(packs, threads);
  const int64_t registers_of_pack = 8 * size_bytes(x_dtype(call)) / 4;
  return {threads, rows, cluster, turns * slots * registers_of_pack * arrays};
}

// `arrays`: tensors of which a thread keeps its part.
std::vector<Knobs> candidates_of(const Call& call, int arrays) {
  if (call.on_host()) return {Deal{1, 1, 1, 0}.knobs(false)};
  std::vector<Deal> deals;
  int64_t largest = 1;
  for (const int64_t cluster : {1, 2, 4, 8}) {
    const bool fits = call.place().capability >= 90 && channels_of_group(call) % cluster == 0 &&
                      channels_of_group(call) <= most_places;
    if (cluster > 1 && !fits) continue;
    largest = cluster;
    for (const int64_t block : {256, 512, 128})
      deals.push_back(deal_of(call, arrays, cluster, block));
  }
  std::erase_if(deals, [](const Deal& deal) { return deal.held > most_registers; });
  const auto distance = [](const Deal& deal) {
    return std::make_pair(std::abs(deal.held - wanted_registers),
                          std::abs(deal.threads * deal.rows - 256));
  };
  std::stable_sort(deals.begin(), deals.end(),
                   [&](const Deal& a, const Deal& b) { return distance(a) < distance(b); });
  std::vector<Knobs> candidates;
  constexpr size_t most = 6;
  for (const Deal& deal : deals) {
    if (candidates.size() < most) candidates.push_back(deal.knobs(true));
  }
  // Longer than registers hold: read again, by as many blocks as may work on a group.
  if (candidates.empty()) {
    for (const int64_t block : {512, 1024})
      candidates.push_back(deal_of(call, arrays, largest, block).knobs(false));
  }
  return candidates;
}

int64_t blocks_of(const Call& call, const Knobs& knobs) {
  return batch_of(call) * groups_of(call) * value_of(knobs, "cluster", 1);
}

Shape shape_of_statistics(const Call& call) {
  return call.flag(keeps_statistics().name) ? sized({size_of("x", 0), groups_of(call)}) : empty();
}

void require_channels(const Call& call, std::string_view vector) {
  const Tensor& v = call[vector];
  if (!v.defined || (v.dims == 1 && v.sizes[0] == channels_of(call))) return;
  call.refuse(vector, "has shape " + shape_text(v),
              fmt::format("[{}], the channels of 'x'", channels_of(call)));
}

void check(const Call& call) {
  const Tensor& x = call["x"];
  if (x.dims < 2 || x.sizes[1] == 0) {
    call.refuse("x", "has shape " + shape_text(x), "[batch, channels, ...], with any channels");
  }
  const int64_t groups = groups_of(call);
  if (groups < 1 || channels_of(call) % groups != 0) {
    call.refuse("num_groups", fmt::format("is {}", groups),
                fmt::format("what divides {}, the channels of 'x'", channels_of(call)));
  }
  constexpr int64_t most = (int64_t{1} << 31) - 1;
  if (channels_of_group(call) * inner_of(call) > most) {
    call.refuse("x", "has shape " + shape_text(x), "up to 2^31 - 1 elements in a group");
  }
  require_channels(call, "weight");
  require_channels(call, "bias");
  require_eps(call);
}

int64_t columns_of_weight(const Call& call) { return wants_dweight(call) ? channels_of(call) : 0; }
int64_t columns_of_bias(const Call& call) { return wants_dbias(call) ? channels_of(call) : 0; }
int64_t partials_of(const Call& call) { return any_elements(call) ? batch_of(call) : 0; }

Temporary partials(std::string name, int64_t (*columns)(const Call&)) {
  return {std::move(name), [columns](const Call& call) -> int64_t {
            return partials_of(call) * padded_columns(columns(call)) *
                   size_bytes(statistics_dtype(call));
          }};
}

std::vector<ExampleSize> sizes() {
  return example_sizes(
      {{"channels", 8, "channels of a batch entry"}, {"groups", 2, "groups of channels"}});
}

const Register group_norm{Op{
    .name = "group_norm",
    .doc = "y = (x - mean) * rsqrt(variance + eps) * weight + bias, over groups of channels of "
           "[batch, channels, ...]",
    .inputs = {dense("x"), optional(dense("weight")), optional(dense("bias")),
               integer("num_groups", 1), real("eps", "1e-06"), keeps_statistics()},
    .outputs = {{"y", [](const Call&) { return like("x"); }, x_dtype},
                {"mean", shape_of_statistics, statistics_dtype, false},
                {"rstd", shape_of_statistics, statistics_dtype, false}},
    .check = check,
    .kernels =
        {{.name = "GroupNormForward",
          .source = "norm/group_norm.h",
          .when = any_elements,
          .spec = [](const Call& call) -> Spec {
            return {{"x", x_dtype(call)},           {"weight", type_of_weight(call)},
                    {"bias", type_of_bias(call)},   {"has_weight", call.has("weight")},
                    {"has_bias", call.has("bias")}, {"channels", channels_of_group(call)},
                    {"inner", inner_of(call)},      {"align_bytes", alignment_of(call, false)}};
          },
          .candidates = [](const Call& call) { return candidates_of(call, 1); },
          .blocks = blocks_of,
          .arguments =
              {"x", "weight", "bias", "y", "mean", "rstd", {"groups", "num_groups"}, "eps"}}},
    .gradient = {.backward = "group_norm_backward",
                 .saved = {"x", "weight", "bias", "mean", "rstd"},
                 .of = {{"x", "dx"}, {"weight", "dweight"}, {"bias", "dbias"}},
                 .needs_grad_flag = keeps_statistics().name},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["channels"], e["size"]}},
              {.input = "weight", .shape = {e["channels"]}},
              {.input = "bias", .shape = {e["channels"]}},
              {.input = "num_groups", .value = static_cast<double>(e["groups"])}};
    },
    .sizes = sizes(),
    .bench = {{"channels-512", {{"rows", 32}, {"size", 4096}, {"channels", 512}, {"groups", 32}}},
              {"channels-320", {{"rows", 16}, {"size", 4096}, {"channels", 320}, {"groups", 32}}}},
}};

const Register group_norm_backward{Op{
    .name = "group_norm_backward",
    .doc = "gradients: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)), g = dy * weight",
    .internal = true,
    .inputs = {dense("dy"), dense("x"), optional(dense("weight")), optional(dense("bias")),
               dense("mean"), dense("rstd"), integer("num_groups", 1), real("eps", "1e-06"),
               mask("output_mask", 3)},
    .outputs = {{"dx", [](const Call& call) { return wants_dx(call) ? like("x") : empty(); },
                 x_dtype},
                {"dweight",
                 [](const Call& call) { return wants_dweight(call) ? like("weight") : empty(); },
                 type_of_weight},
                {"dbias",
                 [](const Call& call) { return wants_dbias(call) ? like("bias") : empty(); },
                 type_of_bias}},
    .temporaries = {partials("weight_partials", columns_of_weight),
                    partials("bias_partials", columns_of_bias)},
    .check =
        [](const Call& call) {
          check(call);
          for (const char* const name : {"mean", "rstd"}) {
            const int64_t wanted = batch_of(call) * groups_of(call);
            if (call[name].count() != wanted) {
              call.refuse(
                  name, "has shape " + shape_text(call[name]),
                  fmt::format("{} elements, which the forward keeps where it is asked to", wanted));
            }
          }
          require_same_shape(call, "x", "dy");
          require_same_dtype(call, "x", "dy");
        },
    .kernels = {{.name = "GroupNormBackward",
                 .source = "norm/group_norm.h",
                 .when = any_elements,
                 .spec = [](const Call& call) -> Spec {
                   return {{"x", x_dtype(call)},
                           {"weight", type_of_weight(call)},
                           {"has_weight", call.has("weight")},
                           {"want_dx", wants_dx(call)},
                           {"want_dweight", wants_dweight(call)},
                           {"want_dbias", wants_dbias(call)},
                           {"channels", channels_of_group(call)},
                           {"inner", inner_of(call)},
                           {"align_bytes", alignment_of(call, true)}};
                 },
                 .candidates = [](const Call& call) { return candidates_of(call, 2); },
                 .blocks = blocks_of,
                 .arguments = {"dy",
                               "x",
                               "weight",
                               "mean",
                               "rstd",
                               "dx",
                               "weight_partials",
                               "bias_partials",
                               {"groups", "num_groups"},
                               {"partial_stride",
                                [](const Call& call) {
                                  return padded_columns(channels_of(call));
                                }}}},
                column_sum(
                    {{"weight_partials", "dweight", type_of_weight, columns_of_weight},
                     {"bias_partials", "dbias", type_of_bias, columns_of_bias}},
                    "x", [](const Call& call) { return wants_dweight(call) || wants_dbias(call); },
                    partials_of)},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "dy", .shape = {e["rows"], e["channels"], e["size"]}},
              {.input = "x", .shape = {e["rows"], e["channels"], e["size"]}},
              {.input = "weight", .shape = {e["channels"]}},
              {.input = "bias", .shape = {e["channels"]}},
              {.input = "mean", .shape = {e["rows"], e["groups"]}, .dtype = "arithmetic"},
              {.input = "rstd", .shape = {e["rows"], e["groups"]}, .dtype = "arithmetic"},
              {.input = "num_groups", .value = static_cast<double>(e["groups"])},
              {.input = "eps", .value = 1e-6},
              {.input = "output_mask", .value = 7}};
    },
    .sizes = sizes(),
}};

}  // namespace
}  // namespace liger
