#include "engine.h"

#include <algorithm>

#include "tile_sweep.h"

namespace fastssm::cpu {
namespace {

constexpr int64_t kRows = 192;      // of a tile's stack: enough for fast products, few enough for the caches
constexpr int64_t kMaxTangents = 254;   // more directions are processed in chunks
constexpr double kMinThreadWork = 2e6;  // operations; fewer are not worth another thread
constexpr int64_t kSlice = 1 << 15;     // elements of a gradient that one worker adds up at a time

// How samples are split into tiles, and tiles among workers: worker i takes tiles [i, i + 1) * tiles / workers.
struct Tiling {
  int64_t size, tiles, workers, tangents;
};

template <class T>
Tiling tiling(const Problem<T>& problem, int64_t threads) {
  int64_t parameters = 0;
  for (int64_t l = 0; l < problem.depth; l++) parameters += problem.layers[l].in * problem.layers[l].out;
  const int64_t tangents = std::min(problem.directions.count, kMaxTangents), samples = problem.samples;
  const int64_t largest = std::max<int64_t>(1, kRows / (tangents + 2));
  const double work = 6.0 * double(samples) * double(problem.directions.count + 2) * double(parameters);
  int64_t workers = std::max<int64_t>(1, std::min({threads, samples, int64_t(std::min(work / kMinThreadWork, 1e6))}));
  const int64_t least = (samples + largest - 1) / largest;
  int64_t tiles = std::max((least + workers - 1) / workers * workers, workers);
  const int64_t size = std::max<int64_t>(1, (samples + tiles - 1) / tiles);
  tiles = (samples + size - 1) / size;
  workers = std::max<int64_t>(1, std::min(workers, tiles));
  return {size, tiles, workers, tangents};
}

template <class T>
class Call {
 public:
  Call(const Problem<T>& problem, const Gradients<T>& gradients, const Runtime<T>& runtime, bool merged, bool down,
       bool each = false)
      : problem_(problem),
        gradients_(gradients),
        runtime_(runtime),
        options_{merged && problem.kind == Kind::energy, down, each},
        tiling_(tiling(problem, runtime.threads)),
        model_(problem, runtime, options_.merged || gradients.x, fresh(shared_arena())) {
    for (int64_t worker = 0; worker < tiling_.workers; worker++) sums_.push_back(empty_sums());
  }

  // Runs `step(sweep, tile)` for every tile and chunk of directions, then adds the sums of all workers up.
  template <class Step>
  void run(const Step& step) {
    const auto one = [&](int64_t index) {
      Arena& arena = fresh(worker_arena());
      TileSweep<T> sweep(model_, gradients_, sums_[index], options_, {0, tiling_.size, 0, tiling_.tangents}, arena);
      const int64_t last = (index + 1) * tiling_.tiles / tiling_.workers;
      for (int64_t tile = index * tiling_.tiles / tiling_.workers; tile < last; tile++) {
        const int64_t first = tile * tiling_.size, samples = std::min(tiling_.size, problem_.samples - first);
        int64_t m = 0;
        do {  // without directions there is one chunk, which is empty
          step(sweep, Tile{first, samples, m, std::min(tiling_.tangents, problem_.directions.count - m)});
          m += tiling_.tangents;
        } while (m < problem_.directions.count);
      }
      if (runtime_.narrow.release) runtime_.narrow.release();
    };
    if (tiling_.workers == 1) {
      one(0);
    } else {
      runtime_.run(tiling_.workers, one);
    }
    finish();
  }

 private:
  static Arena& shared_arena() {
    thread_local Arena arena;
    return arena;
  }
  static Arena& worker_arena() {
    thread_local Arena arena;
    return arena;
  }
  static Arena& fresh(Arena& arena) {
    arena.reset();
    return arena;
  }

  Sums<T> empty_sums() {
    Sums<T> sums;
    sums.hidden.resize(model_.hidden.size());
    if (!gradients_.layers) return sums;
    for (size_t l = 0; l < model_.hidden.size(); l++)
      sums.hidden[l] = {matrix(model_.weights[l]), row(model_.hidden[l].out), false};
    if (!model_.given_readout) return sums;
    const Layer<T>& readout = model_.readout;
    if (problem_.kind == Kind::energy) sums.readout = {row(readout.in), nullptr, false};
    else sums.readout = {matrix(model_.weights.back()), row(readout.out), false};
    return sums;
  }

  T* matrix(const Weights<T>& weights) { return shared_arena().template take<T>(weights.sum_size()); }

  T* row(int64_t width) {
    T* out = shared_arena().template take<T>(pad(width));
    std::fill_n(out, pad(width), T(0));
    return out;
  }

  void finish() {
    if (!gradients_.layers) return;
    for (size_t l = 0; l < model_.hidden.size(); l++) {
      const auto of = [l](Sums<T>& sums) -> typename Sums<T>::OfLayer& { return sums.hidden[l]; };
      const Layer<T>& layer = model_.hidden[l];
      add_matrices(of, model_.weights[l], layer, gradients_.layers[l].weight);
      if (layer.bias) add_rows([&](Sums<T>& sums) { return of(sums).bias; }, layer.out, gradients_.layers[l].bias);
    }
    if (!model_.given_readout) return;
    const LayerGradient<T>& out = gradients_.layers[problem_.depth - 1];
    const Layer<T>& readout = model_.readout;
    if (problem_.kind == Kind::energy) {
      add_rows([](Sums<T>& sums) { return sums.readout.weight; }, readout.in, out.weight);
      if (out.bias) out.bias[0] = T(0);  // a constant of the energy does not change the score
    } else {
      add_matrices([](Sums<T>& sums) -> typename Sums<T>::OfLayer& { return sums.readout; }, model_.weights.back(),
                   readout, out.weight);
      if (out.bias) add_rows([](Sums<T>& sums) { return sums.readout.bias; }, readout.out, out.bias);
    }
  }

  template <class Of>
  void add_matrices(const Of& of, const Weights<T>& weights, const Layer<T>& layer, T* out) {
    std::vector<const T*> parts;
    for (Sums<T>& sums : sums_)
      if (of(sums).started) parts.push_back(of(sums).weight);
    const int64_t rows = std::max<int64_t>(1, kSlice / layer.in), slices = (layer.out + rows - 1) / rows;
    const auto slice = [&](int64_t i) {
      weights.total(i * rows, std::min(rows, layer.out - i * rows), parts, out);
    };
    if (parts.size() > 1 && slices > 1) {
      runtime_.run(slices, slice);
    } else {
      for (int64_t i = 0; i < slices; i++) slice(i);
    }
  }

  template <class Of>
  void add_rows(const Of& of, int64_t width, T* out) {
    std::copy_n(of(sums_[0]), width, out);
    for (size_t worker = 1; worker < sums_.size(); worker++) runtime_.kernels.add(width, of(sums_[worker]), out);
  }

  const Problem<T>& problem_;
  const Gradients<T>& gradients_;
  const Runtime<T>& runtime_;
  const SweepOptions options_;
  const Tiling tiling_;
  const Model<T> model_;
  std::vector<Sums<T>> sums_;
};

}  // namespace

template <class T>
void objective(const Problem<T>& problem, const Objective<T>& out, const Gradients<T>& gradients,
               const Runtime<T>& runtime) {
  Call<T> call(problem, gradients, runtime, out.variance_reduced, gradients.x || gradients.layers);
  call.run([&](TileSweep<T>& sweep, const Tile& tile) { sweep.objective(tile, out); });
}

template <class T>
void terms(const Problem<T>& problem, const Terms<T>& out, const Runtime<T>& runtime) {
  const Gradients<T> none{};
  Call<T> call(problem, none, runtime, true, false, out.each);
  call.run([&](TileSweep<T>& sweep, const Tile& tile) { sweep.terms(tile, out); });
}

template <class T>
void terms_backward(const Problem<T>& problem, const Terms<T>& given, const Gradients<T>& gradients,
                    const Runtime<T>& runtime) {
  Call<T> call(problem, gradients, runtime, true, true, given.each);
  call.run([&](TileSweep<T>& sweep, const Tile& tile) { sweep.terms_backward(tile, given); });
}

#define FASTSSM_INSTANTIATE(T)                                                                              \
  template void objective(const Problem<T>&, const Objective<T>&, const Gradients<T>&, const Runtime<T>&);  \
  template void terms(const Problem<T>&, const Terms<T>&, const Runtime<T>&);                               \
  template void terms_backward(const Problem<T>&, const Terms<T>&, const Gradients<T>&, const Runtime<T>&);
FASTSSM_INSTANTIATE(float)
FASTSSM_INSTANTIATE(double)

}  // namespace fastssm::cpu
