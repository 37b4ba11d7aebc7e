// What is costly to make is made by one process of a node and one rank of a job, and all others
// have it from there: the one way of kernels and of picks.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "cache/layers.h"
#include "runtime/share/group.h"
#include "runtime/share/node_lock.h"

namespace liger {

enum class Ranks {
  share,  // one rank's is as good as another's
  agree,  // all take the first that was proposed, also those that have their own
};

// What one kind of value has of its own. Used by one thread; owned by who obtains the value.
template <typename Value>
class Recipe {
 public:
  Recipe(EntryKind kind, Key key, Ranks ranks) : kind(kind), key(std::move(key)), ranks(ranks) {}
  virtual ~Recipe() = default;

  const EntryKind kind;
  const Key key;
  const Ranks ranks;

  // The value in an entry of the cache; nothing if the entry does not suffice.
  virtual std::optional<Value> accept(const Entry& entry) const = 0;
  // The value in what another rank gave or proposed; nothing if this rank cannot use it.
  virtual std::optional<Value> adopt(const Entry& entry) const { return accept(entry); }
  // `start`: the cache's entry that did not suffice, if there is one. May raise.
  virtual Value make(const std::optional<Entry>& start) const = 0;
  // As it is published and given to other ranks.
  virtual Entry entry_of(const Value& value) const = 0;
  virtual bool worth_publishing(const Value&) const { return true; }
};

enum class Origin { cache, rank, made };

template <typename Value>
struct Obtained {
  Value value;
  Origin origin = Origin::made;  // of what this rank had; where ranks agree another's may stand
};

// Obtains one value, in two steps, because who finds nothing may have reasons not to make it. Used
// by one thread; the caller keeps the other threads of the process from making the same key, for
// the node's lock does not. Raises only what `make` of the recipe does, and then no rank and no
// process waits for it any longer. Trouble of disk, server, lock and group makes a process do by
// itself what another could have spared it, and nothing else.
template <typename Value>
class Obtaining {
 public:
  explicit Obtaining(const Recipe<Value>& recipe) : recipe_(recipe) {}

  // From the cache or, where ranks agree, what stands among them. Makes nothing, and waits for
  // nobody who does.
  std::optional<Obtained<Value>> look() {
    near_ = read_entry(recipe_.kind, recipe_.key);
    std::optional<Value> own = near_ ? recipe_.accept(*near_) : std::nullopt;
    if (recipe_.ranks == Ranks::agree) {
      group_ = Group::current();
      if (group_) {
        if (auto standing = adopted(group_->agreed(recipe_.key), own.has_value()))
          return Obtained<Value>{*std::move(standing), Origin::rank};
      }
    }
    if (!own) return std::nullopt;
    return Obtained<Value>{told(*std::move(own)), Origin::cache};
  }

  // After a look() that found nothing: by one rank of a job at a time, unless that takes too long.
  Obtained<Value> make() {
    if (!group_) group_ = Group::current();
    if (!group_) return made_on_node();
    const Key& key = recipe_.key;
    if (auto others = adopted(recipe_.ranks == Ranks::agree ? group_->agreed_or_claim(key)
                                                            : group_->take(key)))
      return {*std::move(others), Origin::rank};
    try {
      Obtained<Value> own = made_on_node();
      return {told(std::move(own.value)), own.origin};
    } catch (...) {
      group_->give_up(key);
      throw;
    }
  }

 private:
  // By one process of a node at a time, unless that takes too long.
  Obtained<Value> made_on_node() {
    const NodeLock lock(recipe_.key.hash(), Store::user().folder());
    if (lock.waited()) {
      near_ = read_local(recipe_.kind, recipe_.key);
      if (auto others = near_ ? recipe_.accept(*near_) : std::nullopt)
        return {*std::move(others), Origin::cache};
    }
    Value value = recipe_.make(near_);
    if (recipe_.worth_publishing(value)) {
      const Entry entry = recipe_.entry_of(value);
      publish_entry(recipe_.kind, recipe_.key, entry.meta, entry.payload);
    }
    return {std::move(value), Origin::made};
  }

  // What another rank has, kept for the next run, which may have no group.
  std::optional<Value> adopted(const std::optional<Entry>& of_group, bool has_own = false) {
    std::optional<Value> value = of_group ? recipe_.adopt(*of_group) : std::nullopt;
    if (value && !has_own && recipe_.accept(*of_group))
      write_through(recipe_.kind, recipe_.key, *of_group);
    return value;
  }

  // What this rank goes on with after it told the others of its own.
  Value told(Value own) {
    if (!group_) return own;
    const Entry entry = recipe_.entry_of(own);
    if (recipe_.ranks == Ranks::agree)
      return recipe_.adopt(group_->agree(recipe_.key, entry)).value_or(std::move(own));
    group_->give(recipe_.key, entry);
    return own;
  }

  const Recipe<Value>& recipe_;
  std::shared_ptr<Group> group_;
  std::optional<Entry> near_;  // what look() read, or a later look
};

template <typename Value>
Obtained<Value> obtain_once(const Recipe<Value>& recipe) {
  Obtaining<Value> obtaining(recipe);
  if (auto found = obtaining.look()) return *std::move(found);
  return obtaining.make();
}

// In place of an entry that was accepted and turned out to be bad: made here, whoever else has it.
template <typename Value>
Obtained<Value> obtain_anew(const Recipe<Value>& recipe) {
  Value value = recipe.make(std::nullopt);
  const Entry entry = recipe.entry_of(value);
  publish_entry(recipe.kind, recipe.key, entry.meta, entry.payload, Standing::replace);
  return {std::move(value), Origin::made};
}

}  // namespace liger
