// What the declarations of losses of sequences share: losses of the log-probabilities that a linear
// layer gives to [sequences, tokens] ids.
#pragma once

#include "engine/op.h"

namespace liger {

// A composite of the inputs `input`, `weight`, `ids` and `bias`, then its own, then how logits
// become scores and how the work is divided. Its outputs are the loss, its metrics, and the
// layer's gradients, which are made in the forward. Left to set: check, sizes, example, bench.
Op sequence_loss(std::string name, std::string doc, std::vector<Input> own,
                 std::vector<Output> metrics);

// A metric: one number, in the dtype of the loss.
Output number(std::string name);
// Those of every loss of pairs: log-probabilities, mean logits, the negative log-likelihood and
// rewards.
std::vector<Output> pair_metrics();

// Raises for a layer, ids or options that `sequence_loss` does not take. `shape` is that of the
// input, in words.
void check_sequences(const Call& call, std::string_view shape);
// Or for an odd number of sequences.
void check_pairs(const Call& call);

// A reference model: hidden states and a head, or log-probabilities of its sequences.
std::vector<Input> reference_inputs();
void check_reference(const Call& call);

// Raises unless the option is above zero; unless it is a share.
void require_positive(const Call& call, std::string_view option);
void require_share(const Call& call, std::string_view option);

// Of the first four inputs, and of a reference's.
std::vector<Sample> sequence_samples(const Extent& extent);
std::vector<Sample> reference_samples(const Extent& extent);

}  // namespace liger
