# What code inside may touch, as the outside half wrote it down. csh cannot read a file by itself.
if ( -f @ROOT@/sandbox/summary.txt && -r @ROOT@/sandbox/summary.txt ) then
    if ( -x /bin/cat ) /bin/cat @ROOT@/sandbox/summary.txt
endif
