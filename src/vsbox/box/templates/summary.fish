# What code inside may touch, as the outside half wrote it down.
if test -f @ROOT@/sandbox/summary.txt; and test -r @ROOT@/sandbox/summary.txt
    printf '%s\n' (string collect < @ROOT@/sandbox/summary.txt)
end
