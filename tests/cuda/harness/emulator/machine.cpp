#include "machine.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "copies.h"
#include "fiber.h"
#include "observer.h"
#include "warp.h"
#include "wgmma.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {

Machine machine;
Observer* observer = nullptr;

namespace {

struct Thread {
  Fiber fiber;
  bool done = false;
  const char* waits_in = "";
  int line = 0;
  uint64_t* words = nullptr;  // of the collective it waits in
};

// splitmix64
struct Random {
  uint64_t state;
  uint64_t operator()() {
    uint64_t z = state += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
  }
};

// The threads of the block that runs, and who of them may run next.
struct Block {
  std::vector<Thread> threads;
  std::deque<unsigned> ready;
  std::vector<unsigned> at_barrier;
  int barrier_line = 0;
  std::vector<std::pair<unsigned, Collective>> pending;  // with the warp
  unsigned current = 0;
  std::string error;
  void (*body)(const void*) = nullptr;
  const void* argument = nullptr;
};
Block block;

void run_thread() {
  arrived();
  block.body(block.argument);
  Thread& self = block.threads[block.current];
  self.done = true;
  leave(self.fiber, true);
  std::abort();
}

void wait(const char* where, int line) {
  Thread& self = block.threads[block.current];
  self.waits_in = where;
  self.line = line;
  leave(self.fiber, false);
  self.waits_in = "";
}

std::string waiting() {
  std::string list;
  int listed = 0;
  for (unsigned i = 0; i < block.threads.size() && listed < 6; i++) {
    const Thread& t = block.threads[i];
    if (t.done) continue;
    list += (listed++ ? ", " : "") + std::to_string(i) + " in " + t.waits_in + " at line " + std::to_string(t.line);
  }
  return list;
}

unsigned take(bool random, Random& draw) {
  if (random) std::swap(block.ready.front(), block.ready[draw() % block.ready.size()]);
  const unsigned next = block.ready.front();
  block.ready.pop_front();
  return next;
}

void run_block(Schedule schedule, Random& draw) {
  const unsigned count = machine.threads.x;
  block.threads.assign(count, {});
  block.ready.clear();
  block.at_barrier.clear();
  block.pending.clear();
  forget_copies();
  forget_wgmma();
  for (unsigned i = 0; i < count; i++) {
    prepare(block.threads[i].fiber, stacks.stack(i), run_thread);
    block.ready.push_back(i);
  }
  for (unsigned done = 0; done < count;) {
    if (block.ready.empty()) throw std::runtime_error("all threads that are left wait: " + waiting());
    block.current = take(schedule.random, draw);
    machine.thread = {block.current, 0, 0};
    if (observer) observer->thread_runs(block.current);
    enter(block.threads[block.current].fiber);
    if (!block.error.empty()) throw std::runtime_error(std::exchange(block.error, {}));
    done += block.threads[block.current].done;
  }
}

// Shared memory of exactly the size asked for: what lies behind is out of bounds.
class Shared {
 public:
  explicit Shared(size_t size) : bytes_(static_cast<unsigned char*>(std::aligned_alloc(128, room(size)))), size_(size) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(bytes_ + size, room(size) - size);
#endif
  }
  ~Shared() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(bytes_, room(size_));
#endif
    std::free(bytes_);
  }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  unsigned char* fresh() {  // what nobody wrote is NaN
    std::memset(bytes_, 0xFF, size_);
    return bytes_;
  }

 private:
  static size_t room(size_t size) { return (size / 128 + 1) * 128; }
  unsigned char* bytes_;
  size_t size_;
};

// Tells the observer of a launch, and of its end however it ends.
struct Watched {
  Watched(const void* shared, size_t size) {
    if (observer) observer->launch_begins(shared, size);
  }
  ~Watched() {
    if (observer) observer->launch_ends();
  }
};

}  // namespace

void fail(const std::string& why) {
  block.error = why;
  leave(block.threads[block.current].fiber, true);
  std::abort();
}

void barrier(int line) {
  if (!block.at_barrier.empty() && block.barrier_line != line)
    fail("__syncthreads is reached at lines " + std::to_string(block.barrier_line) + " and " + std::to_string(line));
  block.barrier_line = line;
  block.at_barrier.push_back(block.current);
  if (block.at_barrier.size() == block.threads.size()) {
    if (observer) observer->barrier_passed();
    for (unsigned i : block.at_barrier) block.ready.push_back(i);
    block.at_barrier.clear();
  }
  wait("__syncthreads", line);
}

// The collective that the calling lane joins: the warp's one of the same mask, or a new one.
static size_t join(const char* name, int line, uint32_t mask) {
  const unsigned warp = block.current / warp_size;
  for (size_t i = 0; i < block.pending.size(); i++) {
    const auto& [owner, c] = block.pending[i];
    if (owner != warp || !(c.mask & mask)) continue;
    if (c.mask == mask && c.line == line && !std::strcmp(c.name, name)) return i;
    fail(std::string("lanes of a warp meet in ") + c.name + " at line " + std::to_string(c.line) + " and in " + name +
         " at line " + std::to_string(line));
  }
  Collective fresh;
  fresh.name = name;
  fresh.line = line;
  fresh.mask = mask;
  block.pending.emplace_back(warp, fresh);
  return block.pending.size() - 1;
}

static void finish(size_t index, void (*combine)(Collective&)) {
  auto [warp, c] = block.pending[index];
  block.pending.erase(block.pending.begin() + long(index));
  combine(c);
  for (unsigned lane = 0; lane < warp_size; lane++) {
    if (!c.has(int(lane))) continue;
    const unsigned thread = warp * warp_size + lane;
    for (int i = 0; i < Collective::words; i++) block.threads[thread].words[i] = c.out[lane][i];
    block.ready.push_back(thread);
  }
}

void collect(const char* name, int line, uint32_t mask, uint64_t* words, int count, void (*combine)(Collective&)) {
  const unsigned lane = block.current % warp_size, warp = block.current / warp_size;
  if (!(mask >> lane & 1))
    fail(std::string(name) + " at line " + std::to_string(line) + ": the caller is not in its mask");
  uint64_t exchanged[Collective::words] = {};
  std::copy_n(words, count, exchanged);
  block.threads[block.current].words = exchanged;
  const size_t index = join(name, line, mask);
  Collective& c = block.pending[index].second;
  std::copy_n(exchanged, Collective::words, c.in[lane]);
  c.arrived |= 1u << lane;
  const size_t lanes = block.threads.size() - warp * warp_size;
  const uint32_t existing = lanes >= warp_size ? ~0u : (1u << lanes) - 1;
  if (c.arrived == (mask & existing)) finish(index, combine);
  wait(name, line);
  std::copy_n(exchanged, count, words);
}

void synchronise_warp(uint32_t mask, int line) {
  collect("__syncwarp", line, mask, nullptr, 0, [](Collective& c) {
    if (observer && c.mask == ~0u) observer->warp_synchronised(block.current / warp_size);
  });
}

void run_grid(Index grid, unsigned threads, size_t shared, Schedule schedule, void (*body)(const void*),
              const void* argument) {
  machine.grid = grid;
  machine.threads = {threads, 1, 1};
  block.body = body;
  block.argument = argument;
  Random draw{schedule.seed};
  std::vector<unsigned> order(size_t(grid.x) * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = order.size(); schedule.random && i > 1; i--) std::swap(order[i - 1], order[draw() % i]);
  Shared memory(shared);
  machine.shared_size = shared;
  const Watched watched(memory.fresh(), shared);
  for (unsigned b : order) {
    machine.block = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    machine.shared = memory.fresh();
    if (observer) observer->block_begins(b);
    run_block(schedule, draw);
  }
}

}  // namespace emulator
