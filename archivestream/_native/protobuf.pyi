from enum import IntEnum

class ExampleFault(IntEnum):
    SOUND = 0
    CUT = 1
    BAD_VARINT = 2
    BAD_TAG = 3
    BAD_LENGTH = 4
    BAD_PACKED = 5
    BAD_KEY = 6
    GROUP = 7
    CHANGED = 8
    MISSING = 9
    WRONG_KIND = 10
    WRONG_COUNT = 11
    WRONG_SIZE = 12
