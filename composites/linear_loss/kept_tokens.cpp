#include "composites/linear_loss/kept_tokens.h"

#include <ATen/ops/full.h>
#include <ATen/ops/nonzero_static.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>

#include "base/parts.h"

namespace liger::torch_bindings {

namespace {

constexpr int64_t size_step = 128;

}  // namespace

KeptTokens KeptTokens::of(const CompositeCall& in, const at::Tensor& ids,
                          const at::Tensor& second) {
  KeptTokens tokens(ids.size(0));
  if (in.records()) return tokens;
  const int64_t ignored = in["ignore_index"].toInt();
  at::Tensor counts = ids.ne(ignored);
  if (second.defined()) counts.logical_or_(second.ne(ignored));
  int64_t counted = in["counted_tokens"].toInt();
  if (ids.is_cpu()) counted = std::max(counted, counts.sum().item<int64_t>());
  const int64_t kept = parts(counted, size_step) * size_step;
  if (counted < 0 || kept > tokens.total_ / 10 * 9) return tokens;
  if (!ids.is_cpu()) tokens.count_is_right_ = counts.sum().le(kept);
  const at::Tensor found = at::nonzero_static(counts, kept, -1).squeeze(1);
  tokens.padding_ = found.lt(0);
  tokens.from_ = at::where(tokens.padding_, found.narrow(0, 0, std::min<int64_t>(kept, 1)), found)
                     .clamp_min(0);
  tokens.places_ = at::where(tokens.padding_, tokens.total_, found);
  return tokens;
}

at::Tensor KeptTokens::rows(const at::Tensor& whole) const {
  return whole.defined() && skips() ? whole.index_select(0, from_) : whole;
}

at::Tensor KeptTokens::numbers(const at::Tensor& whole, const at::Scalar& padding) const {
  if (!whole.defined() || !skips()) return whole;
  std::vector<int64_t> sizes(whole.dim(), 1);
  sizes[0] = count();
  return rows(whole).masked_fill_(padding_.view(sizes), padding);
}

LinearLayer KeptTokens::layer(const LinearLayer& whole) const {
  return {rows(whole.input), whole.weight, whole.bias};
}

Labels KeptTokens::labels(const CompositeCall& in, const at::Tensor& ids,
                          const at::Tensor& second) const {
  const int64_t ignored = in["ignore_index"].toInt();
  return {.ids = numbers(ids, ignored),
          .totals = {},
          .second = numbers(second, ignored),
          .places = places_};
}

at::Tensor KeptTokens::spread(const at::Tensor& of_kept, double missing) const {
  if (!of_kept.defined() || !skips()) return of_kept;
  std::vector<int64_t> sizes = of_kept.sizes().vec();
  sizes[0] = total_ + 1;  // the last takes the padding
  at::Tensor whole = at::full(sizes, missing, of_kept.options());
  whole.index_copy_(0, places_, of_kept);
  return whole.narrow(0, 0, total_);
}

at::Tensor KeptTokens::checked(const at::Tensor& numbers) const {
  if (!numbers.defined() || !count_is_right_.defined()) return numbers;
  return at::where(count_is_right_, numbers, NAN);
}

}  // namespace liger::torch_bindings
