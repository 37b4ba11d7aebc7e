// All places that keep entries, nearest first: the user's folder, the read-only folders, the
// server. LIGER_JIT_CACHE_MODE is obeyed here.
#pragma once

#include <optional>
#include <string_view>

#include "cache/store.h"

namespace liger {

// The first layer that has it and verifies wins. What the server had is kept in the user's folder;
// a read-only folder is as near as that one, so nothing is copied from there.
std::optional<Entry> read_entry(EntryKind kind, const Key& key);

// The same of the folders alone: a look at what another process may have written by now.
std::optional<Entry> read_local(EntryKind kind, const Key& key);

// Keeps in the user's folder what came from farther away.
void write_through(EntryKind kind, const Key& key, const Entry& entry);

enum class Standing {
  keep,     // an entry that is there stays
  replace,  // it is known to be bad
};

// To the user's folder, and in the background to the server. Best effort: the caller goes on with
// the bytes it has.
void publish_entry(EntryKind kind, const Key& key, std::string_view meta, std::string_view payload,
                   Standing standing = Standing::keep);

}  // namespace liger
