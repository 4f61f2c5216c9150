from enum import IntEnum

class Fault(IntEnum):
    NONE = 0
    MORE = 1
    BAD_SIGNATURE = 2
    BAD_EXTRA = 3
    SHORT_ZIP64 = 4
    SECOND_ZIP64 = 5
    BAD_UNICODE_PATH = 6
    OUT_OF_MEMORY = 7
    TOO_MANY = 8
