// Finds data races of kernels: two accesses to a byte, one a write, that no barrier orders.
//
// __syncthreads orders all threads of a block, __syncwarp with a full mask those of a warp; shuffles and ballots order
// nothing, and nothing orders blocks. Between launches all is ordered. Threads' own stacks are left out.
#include <dlfcn.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "../emulator/observer.h"
#include "hooks.h"

namespace {

// Who did something, and after how many barriers.
struct Moment {
  uint32_t block = 0, barrier = 0, sync = 0;
  uint16_t thread = 0;
  unsigned warp() const { return thread / emulator::warp_size; }
};

// Who has read a byte since it was last written: one thread, some of a warp, of a block, or of the grid.
enum class Readers : uint8_t { none, thread, warp, block, grid };

struct Byte {
  Moment write, read;
  bool written = false;
  Readers readers = Readers::none;
};

constexpr size_t page_size = 1024;
using Page = std::array<Byte, page_size>;

class RaceChecker : public emulator::Observer {
 public:
  RaceChecker() { emulator::observer = this; }

  void launch_begins(const void* shared, size_t size) override {
    pages_.clear();
    last_ = nullptr;
    shared_begin_ = uintptr_t(shared);
    shared_end_ = shared_begin_ + size;
    running_ = true;
  }
  void launch_ends() override { running_ = false; }
  void block_begins(unsigned block) override {
    now_ = {block, 0, 0, 0};
    syncs_.assign(32, 0);
  }
  void thread_runs(unsigned thread) override {
    now_.thread = uint16_t(thread);
    now_.sync = syncs_[now_.warp()];
  }
  void barrier_passed() override { now_.barrier++; }
  void warp_synchronised(unsigned warp) override { now_.sync = ++syncs_[warp]; }

  void access(uintptr_t address, size_t size, bool write, const void* place) {
    if (!running_ || is_private(address)) return;
    accesses++;
    const bool shared = address >= shared_begin_ && address < shared_end_;
    for (size_t i = 0; i < size; i++) {
      Byte& byte = at(address + i);
      const char* found = write ? on_write(byte, shared) : on_read(byte, shared);
      if (found) return report(found, shared, place);
    }
  }

  uint64_t accesses = 0;
  std::map<std::string, uint64_t> races;  // by kind and place

 private:
  Byte& at(uintptr_t address) {
    const uintptr_t page = address / page_size;
    if (!last_ || page != last_page_) {
      auto& found = pages_[page];
      if (!found) found = std::make_unique<Page>();
      last_ = found.get();
      last_page_ = page;
    }
    return (*last_)[address % page_size];
  }

  // Whether `before` happens before now.
  bool ordered(const Moment& before, bool shared) const {
    if (before.block != now_.block) return shared;  // another block's shared memory is another memory
    if (before.thread == now_.thread || before.barrier != now_.barrier) return true;
    return before.warp() == now_.warp() && before.sync != now_.sync;
  }

  const char* on_write(Byte& byte, bool shared) {
    const char* found = nullptr;
    if (byte.written && !ordered(byte.write, shared)) found = "write after write";
    if (!readers_ordered(byte, shared)) found = "write after read";
    byte.write = now_;
    byte.written = true;
    byte.readers = Readers::none;
    return found;
  }

  bool readers_ordered(const Byte& byte, bool shared) const {
    if (byte.readers == Readers::none) return true;
    if (byte.readers == Readers::grid) return shared;
    if (byte.read.block != now_.block || byte.read.barrier != now_.barrier) return ordered(byte.read, shared);
    if (byte.readers == Readers::thread) return ordered(byte.read, shared);
    return byte.readers == Readers::warp && byte.read.warp() == now_.warp() && byte.read.sync != now_.sync;
  }

  const char* on_read(Byte& byte, bool shared) {
    const bool sound = !byte.written || ordered(byte.write, shared);
    remember_reader(byte, shared);
    return sound ? nullptr : "read after write";
  }

  void remember_reader(Byte& byte, bool shared) const {
    const Moment& before = byte.read;
    if (byte.readers == Readers::none || readers_ordered(byte, shared))
      byte.readers = Readers::thread;  // the new one stands for all before it
    else if (before.block != now_.block || byte.readers == Readers::grid)
      byte.readers = Readers::grid;
    else
      byte.readers = before.warp() != now_.warp() || byte.readers == Readers::block ? Readers::block : Readers::warp;
    byte.read = now_;
  }

  void report(const char* kind, bool shared, const void* place) {
    Dl_info library;
    const uintptr_t base = dladdr(place, &library) ? uintptr_t(library.dli_fbase) : 0;
    char text[128];
    std::snprintf(text, sizeof text, "%s in %s memory at 0x%zx", kind, shared ? "shared" : "global",
                  size_t(uintptr_t(place) - base - 1));
    races[text]++;
  }

  bool running_ = false;
  Moment now_;
  std::vector<uint32_t> syncs_;
  uintptr_t shared_begin_ = 0, shared_end_ = 0;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  Page* last_ = nullptr;
  uintptr_t last_page_ = 0;
};

RaceChecker& checker() {
  static RaceChecker one;
  return one;
}

const RaceChecker& installed = checker();

}  // namespace

static void accessed(const void* address, size_t size, bool write, const void* place) {
  checker().access(uintptr_t(address), size, write, place);
}

extern "C" {

// The kinds and places of the races found since the last call, one a line, and how often each was seen.
const char* fastssm_races() {
  static std::string text;
  text.clear();
  for (const auto& [race, times] : checker().races) text += race + ", " + std::to_string(times) + " times\n";
  checker().races.clear();
  return text.c_str();
}

uint64_t fastssm_accesses() { return checker().accesses; }
}
