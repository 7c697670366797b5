// The buffers of a call: one block of device memory, and the largest tile of samples that fits into it.
#include <limits>

#include "launch.h"
#include "pass.h"

namespace fastssm::cuda {
namespace {

constexpr int64_t kMaxTangents = 254;  // more directions are processed in chunks
constexpr int64_t kNarrowLanes = 8;    // bfloat16 numbers of 16 bytes

}  // namespace

// Allocates pieces of a block, one after another. Without a block it only counts their bytes.
class BumpAllocator {
 public:
  explicit BumpAllocator(void* block) : block_(static_cast<char*>(block)) {}
  size_t used() const { return used_; }

  template <class T>
  T* take(int64_t count) {
    char* piece = block_ ? block_ + used_ : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAligned - 1) / kAligned * kAligned;
    return reinterpret_cast<T*>(piece);
  }

 private:
  static constexpr size_t kAligned = 256;
  char* block_;
  size_t used_ = 0;
};

template <class T>
Pass<T>::Pass(const Problem<T>& problem, const int64_t* seed, const Gradients<T>& gradients, const Runtime<T>& runtime,
              SweepOptions options)
    : problem_(problem), seed_(seed), gradients_(gradients), runtime_(runtime), options_(options) {
  split();
  if (problem.samples == 0) return;
  choose_tile();
  BumpAllocator allocator(runtime.allocate(bytes(largest_.samples)));
  lay_out(allocator, largest_.samples);
  if (!given_readout_) {
    const Identity<T> identity{.size = readout_.in, .out = identity_};
    const int64_t blocks = divided_up(readout_.in * readout_.in, kThreads);
    start(runtime, "identity", {.grid = {static_cast<unsigned>(blocks)}, .threads = kThreads}, identity);
    readout_.weight = identity_;
  }
  if (narrow_) narrow_weights();
}

// The readout is the last layer where that is a plain affine map, else the identity.
template <class T>
void Pass<T>::split() {
  const Layer<T>& last = problem_.layers[problem_.depth - 1];
  given_readout_ = plain(last);
  hidden_.assign(problem_.layers, problem_.layers + problem_.depth - given_readout_);
  readout_ = last;
  if (!given_readout_) readout_ = Layer<T>{.in = last.out, .out = last.out, .activation = kIdentity};
  narrow_ = keeps_bfloat16(runtime_);
  for (int64_t l = 0; l < problem_.depth; l++)  // cuBLAS's sizes are of 32 bits
    narrow_ = narrow_ && std::max(layer(l).in, layer(l).out) < std::numeric_limits<int>::max() - kNarrowLanes;
}

// Writes the weights in bfloat16, once a call. An energy's readout is no operand of a product.
template <class T>
void Pass<T>::narrow_weights() {
  if constexpr (sizeof(T) == sizeof(float)) {
    const int64_t count = depth() + !energy();
    for (int64_t first = 0; first < count; first += kNarrowed) {
      NarrowedWeights some{};
      const int64_t these = std::min<int64_t>(kNarrowed, count - first);
      int64_t most = 0;
      for (int64_t i = 0; i < these; i++) {
        Narrowed& w = some.weights[i] = weights_[first + i];
        w.from = layer(first + i).weight;
        most = std::max(most, w.lines * w.padded / kNarrowLanes);
      }
      const Grid grid{static_cast<unsigned>(divided_up(most, kThreads)), static_cast<unsigned>(these)};
      runtime_.launcher("narrow_weights", {.grid = grid, .threads = kThreads}, some, runtime_.stream);
    }
  }
}

template <class T>
size_t Pass<T>::bytes(int64_t samples) {
  BumpAllocator counter(nullptr);
  lay_out(counter, samples);
  return counter.used();
}

// Chooses tiles of one size: the largest that fits, or slightly less.
template <class T>
void Pass<T>::choose_tile() {
  largest_.tangents = std::min(problem_.directions.count, kMaxTangents);
  int64_t fit = 1, step = 1;
  while (step <= problem_.samples / 2) step *= 2;
  for (; step > 0; step /= 2)
    if (fit + step <= problem_.samples && bytes(fit + step) <= runtime_.workspace) fit += step;
  largest_.samples = divided_up(problem_.samples, divided_up(problem_.samples, fit));
}

template <class T>
void Pass<T>::lay_out(BumpAllocator& allocator, int64_t samples) {
  const int64_t kinds = largest_.tangents + 2, rows = kinds * samples;
  const int64_t lanes = narrow_ ? kNarrowLanes : kLanes<T>;
  const auto pad = [&](int64_t width) { return divided_up(width, lanes) * lanes; };
  const auto stack = [&](int64_t ld) { return allocator.template take<T>(rows * ld); };
  const auto narrow = [&](int64_t ld) { return narrow_ ? allocator.template take<uint16_t>(rows * ld) : nullptr; };
  const auto single = [&](int64_t ld) { return allocator.template take<T>(samples * ld); };
  const auto sum = [&](int64_t most, int64_t ld) {
    T* partial = allocator.template take<T>(walking(most, ld / kLanes<T>).down(most) * ld);
    return Sum{.partial = partial, .rows = 0, .ld = ld};
  };
  const int64_t in_ld = pad(problem_.dim + problem_.extra), top_ld = pad(readout_.in);
  int64_t widest = in_ld;
  for (const Layer<T>& layer : hidden_) widest = std::max(widest, pad(layer.out));
  first_ = {stack(in_ld), in_ld, narrow(in_ld)};
  entry_ = {single(in_ld), in_ld};
  score_ = {single(in_ld), in_ld};
  T* adjoints[2] = {nullptr, nullptr};
  uint16_t* narrow_adjoints = nullptr;
  if (options_.gradients && !options_.merged) {
    adjoints[0] = stack(widest), adjoints[1] = stack(widest);
    narrow_adjoints = narrow(widest);
  }
  stages_.clear();
  bias_sums_.clear();
  for (const Layer<T>& layer : hidden_) {
    Stage s{};
    s.ld = pad(layer.out);
    s.z = stack(s.ld);
    const size_t above = stages_.size() + 1;
    const bool products_alone = narrow_ && above < hidden_.size() && !hidden_[above].skip;
    s.out = products_alone ? nullptr : stack(s.ld);
    s.narrow_out = narrow(s.ld);
    s.adjoints = options_.merged ? stack(s.ld) : adjoints[stages_.size() % 2];
    s.narrow_adjoints = options_.merged ? narrow(s.ld) : narrow_adjoints;
    s.q = options_.merged ? single(s.ld) : nullptr;
    s.g = options_.merged ? single(s.ld) : nullptr;
    stages_.push_back(s);
    bias_sums_.push_back(options_.gradients ? sum(samples, s.ld) : Sum{});
  }
  if (!energy()) pullback_ = {stack(top_ld), top_ld, narrow(top_ld)};
  if (options_.gradients) readout_sum_ = sum(rows, energy() ? top_ld : in_ld);
  e2_ = single(1);
  coefficients_ = stack(1);
  if (!given_readout_) identity_ = allocator.template take<T>(readout_.in * readout_.in);
  weights_.clear();
  for (int64_t l = 0; narrow_ && l <= depth(); l++) {
    const Layer<T>& w = layer(l);
    const int64_t padded = pad(w.in);
    uint16_t* to = allocator.template take<uint16_t>(w.out * padded);
    weights_.push_back({.from = nullptr, .to = to, .lines = w.out, .length = w.in, .padded = padded});
  }
}

#define FASTSSM_INSTANTIATE(T) \
  template Pass<T>::Pass(const Problem<T>&, const int64_t*, const Gradients<T>&, const Runtime<T>&, SweepOptions);
FASTSSM_INSTANTIATE(float)
FASTSSM_INSTANTIATE(double)

}  // namespace fastssm::cuda
