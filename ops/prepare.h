// Ahead-of-time: while a recorder is open on a thread, ops called on meta tensors register the
// kernels they would need on its target, and those start to compile in the background.
#pragma once

#include <string>

#include "ops/op.h"

namespace liger {

void begin_prepare(const Target& target);
int end_prepare();  // number of distinct units registered since begin
bool preparing();

// Registers a call. Its place is replaced by the recorder's.
void prepare(const Call& call);

// The target of the recorder that is open on this thread.
const Target& prepare_target();

// Tunes the calls of this thread's last recorder on a live device; returns how many keys were
// searched.
int tune_prepared(Backend backend, int ordinal);

}  // namespace liger
