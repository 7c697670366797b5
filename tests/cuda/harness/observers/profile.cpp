// Counts what a kernel asks of memory. Lanes of a warp that execute an instruction for the same time make one request;
// a request of global memory moves whole sectors of 32 bytes, one of shared memory takes a turn for each further word
// in the same of 32 banks (128-bit accesses go a quarter of a warp at a time, 64-bit ones a half).
#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "../emulator/observer.h"
#include "hooks.h"

namespace {

struct Traffic {
  uint64_t requests = 0, bytes = 0, units = 0;  // units: sectors or turns
  uint64_t fetched = 0;                         // sectors, those that a block reads again counted once
};

struct Access {
  uintptr_t address;
  size_t size;
};

enum Space { global, shared };

struct Request {
  Space space;
  bool write;
  std::vector<Access> lanes;
};

using Place = std::pair<uintptr_t, uint64_t>;  // of the instruction; warp and execution

constexpr uintptr_t sector = 32, bank_width = 4, banks = 32;

class Profiler : public emulator::Observer {
 public:
  Profiler() { emulator::observer = this; }

  void launch_begins(const void* memory, size_t size) override {
    begin_ = uintptr_t(memory);
    end_ = begin_ + size;
    running_ = true;
  }
  void launch_ends() override {
    settle();
    running_ = false;
  }
  void block_begins(unsigned) override { settle(); }
  void thread_runs(unsigned thread) override { thread_ = thread; }
  void barrier_passed() override {}
  void warp_synchronised(unsigned) override {}

  void access(uintptr_t address, size_t size, bool write, uintptr_t place) {
    if (!running_ || is_private(address)) return;
    const Space space = address >= begin_ && address < end_ ? shared : global;
    const uint64_t execution = executions_[{place, thread_}]++;
    const uint64_t warp = thread_ / emulator::warp_size;
    Request& request = requests_[{place, warp << 40 | execution}];
    request.space = space;
    request.write = write;
    request.lanes.push_back({space == shared ? address - begin_ : address, size});
  }

  // Global reads, global writes, shared reads, shared writes.
  std::array<Traffic, 4> traffic{};

 private:
  void settle() {
    std::set<uintptr_t> read;
    for (const auto& [place, request] : requests_) {
      Traffic& t = traffic[2 * request.space + request.write];
      t.requests++;
      for (const Access& a : request.lanes) t.bytes += a.size;
      if (request.space == shared) {
        t.units += turns(request.lanes);
        continue;
      }
      const std::set<uintptr_t> touched = sectors(request.lanes);
      t.units += touched.size();
      if (request.write) t.fetched += touched.size();
      else read.insert(touched.begin(), touched.end());
    }
    traffic[global].fetched += read.size();
    requests_.clear();
    executions_.clear();
  }

  static std::set<uintptr_t> sectors(const std::vector<Access>& lanes) {
    std::set<uintptr_t> touched;
    for (const Access& a : lanes)
      for (uintptr_t s = a.address / sector; s <= (a.address + a.size - 1) / sector; s++) touched.insert(s);
    return touched;
  }

  static uint64_t turns(const std::vector<Access>& lanes) {
    const size_t words = std::max<size_t>(1, lanes[0].size / bank_width), together = emulator::warp_size / words;
    uint64_t all = 0;
    for (size_t first = 0; first < lanes.size(); first += together) {
      std::array<std::set<uintptr_t>, banks> asked;
      for (size_t i = first; i < std::min(lanes.size(), first + together); i++)
        for (size_t w = 0; w < words; w++) {
          const uintptr_t word = lanes[i].address / bank_width + w;
          asked[word % banks].insert(word);
        }
      size_t most = 1;
      for (const auto& bank : asked) most = std::max(most, bank.size());
      all += most;
    }
    return all;
  }

  bool running_ = false;
  unsigned thread_ = 0;
  uintptr_t begin_ = 0, end_ = 0;
  std::map<Place, Request> requests_;
  std::map<Place, uint64_t> executions_;
};

Profiler& profiler() {
  static Profiler one;
  return one;
}

const Profiler& installed = profiler();

}  // namespace

static void accessed(const void* address, size_t size, bool write, const void* place) {
  profiler().access(uintptr_t(address), size, write, uintptr_t(place));
}

// What all launches since the last call moved: requests, bytes, units, sectors fetched, of global reads, global writes,
// shared reads and shared writes.
extern "C" void fastssm_traffic(uint64_t* out) {
  for (const Traffic& t : profiler().traffic) {
    *out++ = t.requests;
    *out++ = t.bytes;
    *out++ = t.units;
    *out++ = t.fetched;
  }
  profiler().traffic = {};
}
