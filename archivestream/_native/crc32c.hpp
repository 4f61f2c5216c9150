// CRC-32C, the checksum of TFRecord: the polynomial of Castagnoli (RFC 3720, appendix B.4), reflected.
//
// Where the processor has an instruction for it, three runs are reckoned side by side, as the instruction takes three
// cycles and one can begin in each; the results are joined with tables that append zeros to what a CRC is of (Mark
// Adler's crc32c.c). Elsewhere tables take eight bytes at a time ("slicing-by-8"). No library: the benchmarks build it, too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define ARCHIVESTREAM_CRC32C_TARGET __attribute__((target("sse4.2")))
#elif defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#define ARCHIVESTREAM_CRC32C_TARGET __attribute__((target("+crc")))
#endif

namespace archivestream {
namespace crc32c {

constexpr std::uint32_t kPolynomial = 0x82F63B78;

// The product of two polynomials modulo that of the CRC; bit 31 is the coefficient of x**0.
constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (; a != 0; a <<= 1) {
    if (a >> 31) product ^= b;
    b = (b & 1) ? (b >> 1) ^ kPolynomial : b >> 1;
  }
  return product;
}

// x**(8 * size): what appending so many zero bytes multiplies a CRC by.
constexpr std::uint32_t zeros(std::uint64_t size) {
  std::uint32_t power = 0x00800000, factor = 0x80000000;
  for (; size != 0; size >>= 1) {
    if (size & 1) factor = multiply(factor, power);
    power = multiply(power, power);
  }
  return factor;
}

// The CRC of two texts, one after the other, from the CRC of each and the size of the second.
constexpr std::uint32_t combine(std::uint32_t first, std::uint32_t second, std::uint64_t size) {
  return size == 0 ? first : multiply(zeros(size), first) ^ second;
}

struct Table {
  std::uint32_t at[8][256];
};

// at[k][b]: the CRC register after byte b and k zero bytes.
constexpr Table make_slices() {
  Table table{};
  for (std::uint32_t b = 0; b < 256; ++b) {
    std::uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) ? (crc >> 1) ^ kPolynomial : crc >> 1;
    table.at[0][b] = crc;
  }
  for (int k = 1; k < 8; ++k)
    for (int b = 0; b < 256; ++b) {
      const std::uint32_t before = table.at[k - 1][b];
      table.at[k][b] = (before >> 8) ^ table.at[0][before & 0xFF];
    }
  return table;
}

// at[k][b]: byte k of a register with value b, after the zero bytes that `factor` stands for.
constexpr Table make_shift(std::uint32_t factor) {
  Table table{};
  for (int k = 0; k < 4; ++k) {
    for (int bit = 0; bit < 8; ++bit) table.at[k][1 << bit] = multiply(factor, std::uint32_t{1} << (8 * k + bit));
    for (int b = 1; b < 256; ++b) table.at[k][b] = table.at[k][b & (b - 1)] ^ table.at[k][b & -b];
  }
  return table;
}

constexpr std::size_t kLongRun = 4096, kShortRun = 256;  // bytes of each of three runs

inline std::uint64_t load(const std::uint8_t *at) {
  std::uint64_t word;
  std::memcpy(&word, at, 8);
  return word;
}

inline std::uint32_t by_tables(std::uint32_t crc, const std::uint8_t *at, std::size_t size) {
  static constexpr Table table = make_slices();
  for (; size >= 8; size -= 8, at += 8) {
    const std::uint64_t word = load(at) ^ crc;
    crc = 0;
    for (int k = 0; k < 8; ++k) crc ^= table.at[7 - k][(word >> (8 * k)) & 0xFF];
  }
  for (; size != 0; --size) crc = (crc >> 8) ^ table.at[0][(crc ^ *at++) & 0xFF];
  return crc;
}

#if defined(ARCHIVESTREAM_CRC32C_TARGET)

ARCHIVESTREAM_CRC32C_TARGET inline std::uint32_t step8(std::uint32_t crc, std::uint64_t word) {
#if defined(__x86_64__)
  return static_cast<std::uint32_t>(_mm_crc32_u64(crc, word));
#else
  return __crc32cd(crc, word);
#endif
}

ARCHIVESTREAM_CRC32C_TARGET inline std::uint32_t step1(std::uint32_t crc, std::uint8_t byte) {
#if defined(__x86_64__)
  return _mm_crc32_u8(crc, byte);
#else
  return __crc32cb(crc, byte);
#endif
}

inline std::uint32_t shift(const Table &table, std::uint32_t crc) {
  return table.at[0][crc & 0xFF] ^ table.at[1][(crc >> 8) & 0xFF] ^ table.at[2][(crc >> 16) & 0xFF] ^
         table.at[3][crc >> 24];
}

template <std::size_t kRun>
ARCHIVESTREAM_CRC32C_TARGET inline std::uint32_t three_runs(std::uint32_t crc, const std::uint8_t *&at,
                                                            std::size_t &size) {
  static constexpr Table one = make_shift(zeros(kRun)), two = make_shift(zeros(2 * kRun));
  for (; size >= 3 * kRun; size -= 3 * kRun, at += 3 * kRun) {
    std::uint32_t second = 0, third = 0;
    for (std::size_t i = 0; i < kRun; i += 8) {
      crc = step8(crc, load(at + i));
      second = step8(second, load(at + kRun + i));
      third = step8(third, load(at + 2 * kRun + i));
    }
    crc = shift(two, crc) ^ shift(one, second) ^ third;
  }
  return crc;
}

ARCHIVESTREAM_CRC32C_TARGET inline std::uint32_t by_instruction(std::uint32_t crc, const std::uint8_t *at,
                                                                std::size_t size) {
  crc = three_runs<kLongRun>(crc, at, size);
  crc = three_runs<kShortRun>(crc, at, size);
  for (; size >= 8; size -= 8, at += 8) crc = step8(crc, load(at));
  for (; size != 0; --size) crc = step1(crc, *at++);
  return crc;
}

inline bool has_instruction() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("sse4.2");
#elif defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#else
  return true;  // every 64-bit processor of Apple
#endif
}

#else

inline std::uint32_t by_instruction(std::uint32_t crc, const std::uint8_t *at, std::size_t size) {
  return by_tables(crc, at, size);
}
inline bool has_instruction() { return false; }

#endif

// Continue a CRC over some bytes.
inline std::uint32_t update(std::uint32_t crc, const std::uint8_t *data, std::size_t size) {
  return ~(has_instruction() ? by_instruction(~crc, data, size) : by_tables(~crc, data, size));
}

}  // namespace crc32c
}  // namespace archivestream
