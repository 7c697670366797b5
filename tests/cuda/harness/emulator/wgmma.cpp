#include "wgmma.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "machine.h"
#include "warp.h"

namespace emulator {
namespace {

constexpr uint32_t window = 1024;     // address of the first byte: a device keeps what is below
constexpr uint32_t poison = 0x7FDEAD00;  // NaN
constexpr int depth = 16, kept = 25;

// Accumulators of a thread that wgmma works on.
struct Flight {
  float* d;
  std::vector<float> values;
  int group;  // the last that writes them
};

struct Read {
  const Bytes16* from;
  Bytes16 value;
  int group;
};

struct Thread {
  bool fenced = false;
  int group = 0;  // the open one
  size_t issues = 0;
  std::vector<Flight> flights;
  std::deque<Read> reads;
};

// What the lanes of a warp have loaded for its next product.
struct Loaded {
  float a[16][depth], b[256][depth];
};

std::map<unsigned, Thread> threads;
std::map<unsigned, Loaded> loaded;
std::map<unsigned, std::vector<Issue>> issued;  // of warpgroups
std::vector<unsigned char> visible;             // shared memory as the tensor cores see it

Thread& self() { return threads[machine.thread.x]; }

std::string at(int line) { return " at line " + std::to_string(line); }

uint32_t field(uint64_t descriptor, int bit) { return uint32_t(descriptor >> bit & 0x3FFF) << 4; }

bool poisoned(const Flight& flight) {
  for (size_t i = 0; i < flight.values.size(); i++)
    if (bits<uint32_t>(flight.d[i]) != poison) return false;
  return true;
}

void poison_registers(const Flight& flight) {
  for (size_t i = 0; i < flight.values.size(); i++) flight.d[i] = bits<float>(poison);
}

Flight* flight_of(Thread& thread, const float* d) {
  for (Flight& flight : thread.flights)
    if (flight.d == d) return &flight;
  return nullptr;
}

void together(const char* name, int line) {
  if (machine.threads.x % warpgroup_size) fail(std::string(name) + " needs whole warpgroups");
  collect(name, line, ~0u, nullptr, 0, [](Collective&) {});
}

// All lanes of the warp have loaded: their entries of D. The last issue of the caller is the warp's.
void product(Collective&) {
  const unsigned warp = machine.thread.x / warp_size;
  const Loaded& from = loaded[warp];
  const bool add = issued[machine.thread.x / warpgroup_size][self().issues - 1].add;
  for (unsigned lane = 0; lane < warp_size; lane++) {
    std::vector<float>& values = threads[warp * warp_size + lane].flights.back().values;
    for (size_t i = 0; i < values.size(); i++) {
      const size_t row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      double products[depth];
      for (int k = 0; k < depth; k++) products[k] = double(from.a[row][k]) * double(from.b[column][k]);
      values[i] = added(add ? values[i] : 0, products, depth, kept);
    }
  }
}

}  // namespace

uint32_t shared_address(const void* p) {
  return window + uint32_t(static_cast<const unsigned char*>(p) - machine.shared);
}

Operand::Operand(uint64_t descriptor, bool transposed)
    : start(field(descriptor, 0)),
      leading(field(descriptor, 16)),
      stride(field(descriptor, 32)),
      transposed(transposed) {
  constexpr uint64_t fields = 0xC000'3FFF'3FFF'3FFF;  // a base offset is for patterns that begin elsewhere
  if (descriptor & ~fields) fail("a descriptor of wgmma has bits beside its fields, or a base offset");
  constexpr int widths[] = {1, 8, 4, 2};
  width = widths[descriptor >> 62];
}

// The canonical layouts of the PTX ISA in pieces of 16 bytes.
const Bytes16* Operand::piece(int line, int k) const {
  const uint32_t i = uint32_t(line), w = uint32_t(width), row = 16 * w;
  uint32_t address = start;
  if (!transposed) {
    address += i % 8 * row + i / 8 * stride + uint32_t(k) / 8 * (w == 1 ? leading : 16);
  } else {
    const uint32_t column = i / 8, deep = uint32_t(k);
    address += column % w * 16 + column / w * (w == 1 ? stride : leading);
    address += deep % 8 * row + deep / 8 * (w == 1 ? leading : stride);
  }
  address ^= (address >> 7 & (w - 1)) << 4;
  if (address < window || address + 16 > window + machine.shared_size) fail("wgmma reads beyond shared memory");
  return reinterpret_cast<const Bytes16*>(machine.shared + (address - window));
}

void fence_proxy_async() { visible.assign(machine.shared, machine.shared + machine.shared_size); }

void wgmma_fence(int line) {
  together("wgmma.fence", line);
  self().fenced = true;
}

void wgmma_commit(int line) {
  together("wgmma.commit_group", line);
  self().group++;
}

void begin_issue(const Issue& issue, float* d, int count) {
  if (machine.threads.x % warpgroup_size) fail("wgmma.mma_async needs whole warpgroups");
  Thread& mine = self();
  auto& sequence = issued[machine.thread.x / warpgroup_size];
  if (mine.issues == sequence.size()) sequence.push_back(issue);
  if (!(sequence[mine.issues++] == issue)) fail("the threads of a warpgroup issue different products" + at(issue.line));
  if (const Flight* known = flight_of(mine, d)) {
    if (!poisoned(*known)) fail("accumulators of wgmma in flight were written" + at(issue.line));
    std::swap(mine.flights[size_t(known - mine.flights.data())], mine.flights.back());
  } else {
    if (!mine.fenced) fail("wgmma.mma_async without wgmma.fence" + at(issue.line));
    mine.flights.push_back({d, std::vector<float>(d, d + count), 0});
    poison_registers(mine.flights.back());
  }
  mine.flights.back().group = mine.group;
}

void take_piece(Part part, int line, int k, bool transposed, const Bytes16* from, Bytes16 value) {
  const size_t offset = size_t(reinterpret_cast<const unsigned char*>(from) - machine.shared);
  if (visible.empty() || std::memcmp(visible.data() + offset, &value, 16))
    fail("wgmma reads what no fence.proxy.async made visible");
  self().reads.push_back({from, value, self().group});
  Loaded& to = loaded[machine.thread.x / warp_size];
  uint16_t numbers[8];
  std::memcpy(numbers, &value, 16);
  for (int i = 0; i < 8; i++) {
    const int row = line + (transposed ? i : 0), column = k + (transposed ? 0 : i);
    (part == Part::a ? to.a : to.b)[row][column] = bits<float>(uint32_t(numbers[i]) << 16);
  }
}

void finish_issue(const Issue& issue) { collect("wgmma.mma_async", issue.line, ~0u, nullptr, 0, product); }

void wgmma_wait(int left, int line) {
  together("wgmma.wait_group", line);
  Thread& mine = self();
  const int done = mine.group - left;  // groups before this one
  for (; !mine.reads.empty() && mine.reads.front().group < done; mine.reads.pop_front())
    if (std::memcmp(mine.reads.front().from, &mine.reads.front().value, 16))
      fail("an operand of wgmma in flight was overwritten before the wait" + at(line));
  std::erase_if(mine.flights, [&](const Flight& flight) {
    if (flight.group >= done) return false;
    if (!poisoned(flight)) fail("accumulators of wgmma in flight were written before the wait" + at(line));
    std::copy(flight.values.begin(), flight.values.end(), flight.d);
    mine.fenced = false;  // the thread will use them
    return true;
  });
}

void forget_wgmma() {
  threads.clear();
  loaded.clear();
  issued.clear();
  visible.clear();
}

}  // namespace emulator
