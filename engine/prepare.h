// Ahead-of-time: while a recorder is open on a thread, ops called on meta tensors register the
// kernels they would need on its target, and those start to compile in the background. The other
// candidates of a kernel follow when the recorder is closed: all that a step cannot do without
// comes first.
#pragma once

#include <string>
#include <vector>

#include "engine/op.h"

namespace liger {

void begin_prepare(const Target& target);
// Number of distinct units registered since begin. `awaited`: somebody waits for all of them.
int end_prepare(bool awaited);
bool preparing();

// Whether what is registered from here on is tuned, as it is unless one says otherwise: of what is
// not, the first candidates alone are compiled.
void tune_what_is_prepared(bool tunes);

// Registers a call. Its place is replaced by the recorder's. `spare`: a step may fall back to it,
// so it comes after all others and is not tuned.
void prepare(const Call& call, bool spare = false);

// The target of the recorder that is open on this thread.
const Target& prepare_target();

// What this thread's last recorder saw, as the cache names it: `a/<32 hex>` for each unit, and the
// family of each kernel that is tuned, as it stands in the key of a tune record.
std::vector<std::string> prepared_names();

// What went wrong with the compiles that this thread's last recorder began, those of others left
// out. For when no compile is running: one that has not ended says nothing.
std::vector<std::string> take_prepared_failures();

// Tunes the calls of this thread's last recorder on a live device; returns how many keys were
// searched.
int tune_prepared(Backend backend, int ordinal);

}  // namespace liger
