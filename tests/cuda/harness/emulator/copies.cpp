#include "copies.h"

#include <deque>
#include <map>
#include <string>
#include <utility>

#include "machine.h"

namespace emulator {
namespace {

// Of a thread: the committed groups, and the copies since then.
struct Copies {
  std::deque<std::deque<Copy>> groups;
  std::deque<Copy> open;
};
std::map<unsigned, Copies> copies;

}  // namespace

void check_copy(const void* to, const void* from, int size, int given) {
  if (given < 0 || given > size) fail("a copy of " + std::to_string(given) + " bytes of " + std::to_string(size));
  if (uintptr_t(to) % size || (given && uintptr_t(from) % size)) fail("a misaligned asynchronous copy");
}

void queue_copy(const Copy& copy) { copies[machine.thread.x].open.push_back(copy); }

bool take_copy(int left, Copy& due) {
  auto& groups = copies[machine.thread.x].groups;
  while (int(groups.size()) > left && groups.front().empty()) groups.pop_front();
  if (int(groups.size()) <= left) return false;
  due = groups.front().front();
  groups.front().pop_front();
  return true;
}

void commit_copies() {
  Copies& mine = copies[machine.thread.x];
  mine.groups.push_back(std::exchange(mine.open, {}));
}

void forget_copies() { copies.clear(); }

}  // namespace emulator
