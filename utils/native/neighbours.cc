// The memory of neighbours: how much of the next click goes to each item by what was clicked in sessions like this one.
//
// utils/model/neighbours.py compiles and calls this, says what it computes, and computes the same in NumPy; a test
// compares both.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

// The arrays and numbers of neighbours.Neighbours, in the order of its `layout`.
struct Memory {
  const int32_t* items;       // of all remembered clicks
  const int64_t* offsets;     // where each session's clicks begin
  const int32_t* session_of;  // each click's session
  const int64_t* starts;      // where each item's newest clicks begin in `newest`
  const int64_t* newest;
  const float* repeat_rates;
  const double* weights;  // of a shared item, by its step
  int64_t recent, neighbours, reach, item_count;
};

struct Candidate {
  int32_t session;
  int32_t step;    // of the latest click on an item of it, from 1
  int64_t anchor;  // its last click on that item
  double similarity;
};

// What one thread works with, kept from call to call.
struct Room {
  std::vector<int32_t> places;  // a hash table of candidates; -1: free
  std::vector<Candidate> candidates;
  std::vector<double> shares;  // of all items, 0 between calls
  std::vector<int32_t> known;  // the items that have one
};

thread_local Room room;

// The candidate that is this session, which is made if there is none yet.
Candidate& candidate_of(int32_t session, int32_t step, int64_t anchor) {
  const size_t last = room.places.size() - 1;  // the size is a power of 2
  size_t place = (uint32_t)session * 2654435761u & last;
  while (room.places[place] >= 0 && room.candidates[room.places[place]].session != session) place = (place + 1) & last;
  if (room.places[place] < 0) {
    room.places[place] = (int32_t)room.candidates.size();
    room.candidates.push_back({session, step, anchor, 0.0});
  }
  return room.candidates[room.places[place]];
}

// The sessions that share an item with the last clicks of this one; the nearest are put first. How many of them count.
size_t find_neighbours(const Memory& memory, const int32_t* clicks, int64_t count) {
  const int64_t steps = std::min(count, memory.recent);
  const int32_t* last = clicks + count - 1;
  int64_t most = 0;
  for (int64_t step = 0; step < steps; ++step)
    most += memory.starts[*(last - step) + 1] - memory.starts[*(last - step)];
  size_t size = 16;
  while (size < 2 * (size_t)most) size *= 2;
  room.places.assign(size, -1);
  room.candidates.clear();
  for (int64_t step = 0; step < steps; ++step) {
    const int32_t item = *(last - step);
    if (std::find(last - step + 1, last + 1, item) != last + 1) continue;  // its latest click counts alone
    for (int64_t place = memory.starts[item]; place < memory.starts[item + 1]; ++place) {
      const int64_t click = memory.newest[place];
      candidate_of(memory.session_of[click], (int32_t)step + 1, click).similarity += memory.weights[step];
    }
  }
  for (auto& candidate : room.candidates) candidate.similarity *= candidate.similarity;
  const size_t kept = std::min(room.candidates.size(), (size_t)memory.neighbours);
  if (kept < room.candidates.size())
    std::nth_element(room.candidates.begin(), room.candidates.begin() + kept, room.candidates.end(),
                     [](const Candidate& a, const Candidate& b) {
                       return a.similarity > b.similarity || (a.similarity == b.similarity && a.session > b.session);
                     });
  return kept;
}

// Fills room.shares and room.known; false where nothing like this session is remembered, and they stay empty.
bool find_shares(const Memory& memory, const int32_t* clicks, int64_t count) {
  room.shares.resize(std::max((size_t)memory.item_count, room.shares.size()));
  room.known.clear();
  const size_t neighbours = count ? find_neighbours(memory, clicks, count) : 0;
  const int32_t last = count ? clicks[count - 1] : 0;
  double others = 0;
  for (size_t place = 0; place < neighbours; ++place) {
    const Candidate& neighbour = room.candidates[place];
    const double weight = neighbour.similarity / neighbour.step;
    const int64_t from = std::max(memory.offsets[neighbour.session], neighbour.anchor - memory.reach);
    const int64_t end = std::min(memory.offsets[neighbour.session + 1], neighbour.anchor + memory.reach + 1);
    for (int64_t click = from; click < end; ++click) {
      const int64_t distance = click - neighbour.anchor;
      const double share = weight / (distance > 0 ? (double)distance : std::sqrt(1.0 - (double)distance));
      const int32_t item = memory.items[click];
      if (item == last) continue;
      if (room.shares[item] == 0) room.known.push_back(item);
      room.shares[item] += share;
      others += share;
    }
  }
  if (room.known.empty()) return false;
  const double repeated = memory.repeat_rates[last];
  for (const int32_t item : room.known) room.shares[item] *= (1 - repeated) / others;
  if (repeated > 0) {
    room.shares[last] = repeated;
    room.known.push_back(last);
  }
  return true;
}

}  // namespace

extern "C" {

// The items that have a share, in the order of their numbers, and their shares: how many there are.
int64_t neighbour_shares(const Memory* memory, const int32_t* clicks, int64_t count, int32_t* items, float* shares) {
  if (!find_shares(*memory, clicks, count)) return 0;
  std::sort(room.known.begin(), room.known.end());
  int64_t found = 0;
  for (const int32_t item : room.known) {
    const float share = (float)room.shares[item];
    if (share > 0) items[found] = item, shares[found++] = share;
    room.shares[item] = 0;
  }
  return found;
}

}
