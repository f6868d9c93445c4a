# What code inside may touch, as the outside half wrote it down.
if [ -f @ROOT@/sandbox/summary.txt ] && [ -r @ROOT@/sandbox/summary.txt ]; then
    # In a UTF-8 locale, bash takes a newline after a broken character for a part of it.
    while IFS= LC_ALL=C read -r _vsbox_line || [ -n "$_vsbox_line" ]; do
        # mksh and OpenBSD's ksh have no printf of their own: theirs would come from PATH.
        if [ "$(PATH=/dev/null; command -v printf)" = printf ]; then
            printf '%s\n' "$_vsbox_line"
        else
            print -r -- "$_vsbox_line"
        fi
    done < @ROOT@/sandbox/summary.txt
    unset _vsbox_line
fi
