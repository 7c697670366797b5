#!/bin/sh
# spills.sh OBJDUMP OBJECT: fail if a block of a product in an object file for aarch64 keeps a vector on the stack.
"$1" --disassemble --no-show-raw-insn "$2" | awk '
  /^[0-9a-f]+ </ { inside = /5blockI/; blocks += inside }
  inside && /[ \t]q[0-9]+,.*\[sp/ { print; spilled = 1 }
  END { print blocks " blocks"; exit spilled || !blocks }'
