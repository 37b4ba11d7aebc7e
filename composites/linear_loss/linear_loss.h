// The engine of losses behind a linear layer: logits exist for a chunk of tokens at a time. It
// makes the products and adds up the gradients; a loss says what becomes of the logits of a chunk.
// Losses of log-probabilities have a simpler interface, in log_prob_loss.h.
#pragma once

#include "composites/products.h"
#include "ops/linear_loss/division.h"
#include "torch_bindings/composite_call.h"

namespace liger::torch_bindings {

struct LinearLayer {
  at::Tensor input;   // [tokens, hidden], contiguous
  at::Tensor weight;  // [classes, hidden], contiguous
  at::Tensor bias;    // [classes], or undefined

  LinearLossSizes sizes() const;
};

// The tensors `input`, `weight` and `bias` of a call, the input's leading dims joined.
LinearLayer layer_of(const CompositeCall& in);

// logits = rows @ weight.T + bias.
void logits_into(at::Tensor& logits, const LinearLayer& layer, const at::Tensor& rows);

// Which gradients are made. The product of one that is not is left out.
struct WantedGradients {
  bool input = false;
  bool weight = false;
  bool bias = false;

  bool any() const { return input || weight || bias; }
};

// From a composite's mask of three.
WantedGradients wanted_of(const CompositeCall& in, std::string_view mask);

struct LayerGradients {
  at::Tensor input, weight, bias;  // undefined: not wanted
};

// Units `first` to `first + count` of a batch, whose tokens stand part after part.
struct Chunk {
  const Units& batch;
  int64_t first;
  int64_t count;

  int64_t tokens() const { return count * batch.of_unit(); }
  int64_t part_tokens() const { return count * batch.tokens; }
  // Where a part of the chunk begins in the batch.
  int64_t first_token(int64_t part) const { return (part * batch.count + first) * batch.tokens; }
  // Of a tensor of all tokens those of one part; of a tensor of the chunk's tokens as well.
  at::Tensor of_batch(const at::Tensor& whole, int64_t part) const;
  at::Tensor of_chunk(const at::Tensor& whole, int64_t part) const;
  // The rows of the chunk as one tensor: a view where there is one part, else a copy.
  at::Tensor gather(const at::Tensor& whole) const;
  // The reverse, where `rows` is not that view.
  void scatter(const at::Tensor& rows, const at::Tensor& whole) const;
};

// What a chunk of exponentials wants to know of the tokens.
struct ExponentialLosses {
  at::Tensor loss, z_loss;  // [tokens of the chunk], written
};

class ChunkLoss {
 public:
  virtual ~ChunkLoss() = default;

  // Keeps what the loss wants of each token and, where gradients are wanted, overwrites the logits
  // [tokens of the chunk, classes] with their gradient. `spare`: the call only prepares what
  // another batch may need.
  virtual void take_logits(const Chunk& chunk, const at::Tensor& logits, bool spare) = 0;

  // False: take_logits() makes its logits itself, or has them from elsewhere.
  virtual bool wants_logits() const { return true; }
  // False: where no gradient is wanted it needs no room for logits, and its `logits` are undefined.
  virtual bool holds_logits() const { return true; }

  // For Way::exponentials: where -log p of the chunk's tokens goes, and when it is there, what each
  // token's gradient of that is multiplied with. Undefined: nothing more than `totals`.
  virtual ExponentialLosses losses_of(const Chunk&) { return {}; }
  virtual at::Tensor weights_of(const Chunk&, const at::Tensor&) { return {}; }
};

// The labels of the tokens and, for exponentials, what their losses are multiplied with.
struct Labels {
  at::Tensor ids;     // [tokens]
  at::Tensor totals;  // LossTotals; undefined: as it is
  at::Tensor second;  // [tokens], another id of each; undefined: they have one
  at::Tensor places;  // [tokens], in the batch they were picked out of; undefined: all are here

  // Those of a chunk's tokens of one part.
  Labels of(const Chunk& chunk, int64_t part) const;
};

// Runs the loss over chunks, as `division` says, whose way is `logits` or `exponentials`.
LayerGradients run_by_chunks(const CompositeCall& in, const LinearLayer& layer,
                             const Labels& labels, const LossDivision& division,
                             const WantedGradients& wanted, ChunkLoss& loss);

// float32, or float64 for float64: what losses and sums are kept in.
at::TensorOptions exact_options(const at::TensorOptions& options);

// 1 / (the tokens whose label is not ignored, or all where none has one, times `each`), of at least
// one token: where none counts losses are zeros. Nothing waits for the device.
at::Tensor share_of_token(const CompositeCall& in, const at::Tensor& target, int64_t tokens,
                          const at::TensorOptions& exact, double each = 1.0);

// The tensor, or an empty one for an output that is not wanted.
at::Tensor or_empty(const at::Tensor& tensor, const at::TensorOptions& options);

// As the last three outputs of a composite: the input's in its shape, and what is not wanted empty.
void append_gradients(Tensors& outputs, const LayerGradients& made, const at::Tensor& input);

// Of one row a token, or nothing.
inline at::Tensor rows_of(const at::Tensor& whole, int64_t first, int64_t count) {
  return whole.defined() ? whole.narrow(0, first, count) : whole;
}

}  // namespace liger::torch_bindings
