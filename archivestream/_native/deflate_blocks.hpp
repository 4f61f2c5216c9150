// Where the blocks of a DEFLATE stream lie (RFC 1951): finds the last one, without decoding what they stand for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace archivestream {

// One Huffman code as a table that is indexed by the next bits: symbol << 4 | length of its code (3.2.2).
struct HuffmanTable {
  std::uint16_t entries[1 << 15];
  unsigned mask;

  // False where the lengths make no code: too many of one length.
  bool build(const std::uint8_t *lengths, unsigned n) {
    unsigned counts[16] = {0}, next[16], longest = 1, code = 0;
    for (unsigned i = 0; i < n; ++i) ++counts[lengths[i]];
    counts[0] = 0;
    for (unsigned length = 1; length < 16; ++length) {
      code = (code + counts[length - 1]) << 1;
      next[length] = code;
      if (code + counts[length] > 1u << length) return false;
      if (counts[length]) longest = length;
    }
    mask = (1u << longest) - 1;
    std::memset(entries, 0, sizeof(entries[0]) << longest);  // what no code begins with has length 0
    for (unsigned symbol = 0; symbol < n; ++symbol) {
      const unsigned length = lengths[symbol];
      if (!length) continue;
      unsigned reversed = 0;
      for (unsigned bit = 0, rest = next[length]++; bit < length; ++bit, rest >>= 1) reversed = reversed << 1 | (rest & 1);
      for (unsigned at = reversed; at <= mask; at += 1u << length)
        entries[at] = static_cast<std::uint16_t>(symbol << 4 | length);
    }
    return true;
  }
};

// Walks over a stream that a compressor made. Eight bytes behind it must be readable.
class BlockWalker {
 public:
  BlockWalker(const std::uint8_t *data, std::size_t size) : data_(data), bits_(std::uint64_t{size} * 8) {}

  // Find the bit at which the last block begins, and the one after its end; false where the stream is invalid.
  bool find_last(std::uint64_t *begin, std::uint64_t *end) {
    for (;;) {
      *begin = at_;
      const unsigned header = take(3);
      const bool passed = header >> 1 == 0 ? pass_stored() : read_codes(header >> 1) && pass_symbols();
      if (!passed || at_ > bits_) return false;
      if (header & 1) break;
    }
    *end = at_;
    return true;
  }

 private:
  const std::uint8_t *data_;
  std::uint64_t bits_, at_ = 0;
  HuffmanTable literals_, distances_;

  // At least 57 bits from the position on.
  std::uint64_t peek() const {
    const std::uint8_t *byte = data_ + (at_ >> 3);
    std::uint64_t word;
    std::memcpy(&word, byte, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word >> (at_ & 7);
  }

  unsigned take(unsigned n) {
    const unsigned value = static_cast<unsigned>(peek() & ((1u << n) - 1));
    at_ += n;
    return value;
  }

  bool pass_stored() {  // 3.2.4
    at_ = (at_ + 7) & ~std::uint64_t{7};
    if (at_ + 32 > bits_) return false;
    at_ += 16 + 8 * std::uint64_t{take(16)};
    return true;
  }

  bool read_codes(unsigned type) {
    static const std::uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    std::uint8_t lengths[288 + 32 + 138] = {0};
    if (type == 1) {  // 3.2.6
      for (unsigned i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
      std::memset(lengths + 288, 5, 32);
      return literals_.build(lengths, 288) && distances_.build(lengths + 288, 32);
    }
    if (type != 2) return false;
    const unsigned literals = take(5) + 257, distances = take(5) + 1, codes = take(4) + 4;  // 3.2.7
    for (unsigned i = 0; i < codes; ++i) lengths[order[i]] = static_cast<std::uint8_t>(take(3));
    if (!distances_.build(lengths, 19)) return false;  // of the lengths, until they are known
    std::memset(lengths, 0, 19);
    for (unsigned i = 0; i < literals + distances;) {
      if (at_ > bits_) return false;
      const unsigned entry = distances_.entries[peek() & distances_.mask], symbol = entry >> 4;
      at_ += entry & 15;
      if (symbol < 16) {
        lengths[i++] = static_cast<std::uint8_t>(symbol);
        continue;
      }
      if (symbol == 16 && i == 0) return false;
      const std::uint8_t value = symbol == 16 ? lengths[i - 1] : 0;
      for (unsigned n = symbol == 16 ? 3 + take(2) : symbol == 17 ? 3 + take(3) : 11 + take(7); n; --n) lengths[i++] = value;
    }
    return literals_.build(lengths, literals) && distances_.build(lengths + literals, distances);
  }

  bool pass_symbols() {  // 3.2.5
    static const std::uint8_t length_bits[31] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2,
                                                 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0, 0, 0};
    static const std::uint8_t distance_bits[32] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6, 6,
                                                   7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 0, 0};
    while (at_ < bits_) {
      std::uint64_t word = peek();  // the 48 bits that a length and a distance take at most
      const unsigned entry = literals_.entries[word & literals_.mask], symbol = entry >> 4;
      unsigned used = entry & 15;
      if (used == 0) return false;
      if (symbol > 256) {
        used += length_bits[symbol - 257];
        const unsigned distance = distances_.entries[word >> used & distances_.mask];
        used += (distance & 15) + distance_bits[distance >> 4];
      }
      at_ += used;
      if (symbol == 256) return true;
    }
    return false;
  }
};

}  // namespace archivestream
