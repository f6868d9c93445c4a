# Use it with "source bin/activate.fish" from fish (https://fishshell.com).
# Only builtins below: nothing here may be looked up on PATH.

# Another environment that is active goes first, by its own function (never by a command).
if set -q VIRTUAL_ENV; and functions -q deactivate
    deactivate nondestructive
end

# The _OLD_VIRTUAL_* and _old_fish_prompt names are those of other environments' scripts, which
# restore from them when they are activated on top of this one.
function deactivate --description 'Leave the virtual environment'
    if set -qg _VSBOX_ACTIVE
        for name in PATH PYTHONHOME VIRTUAL_ENV VIRTUAL_ENV_PROMPT
            set -l saved _OLD_VIRTUAL_$name
            if set -qg $saved
                set -gx $name $$saved
                set -eg $saved
            else
                set -eg $name
            end
        end
        if set -qg _OLD_FISH_PROMPT_OVERRIDE; and functions -q _old_fish_prompt
            functions -e fish_prompt
            functions -c _old_fish_prompt fish_prompt
            functions -e _old_fish_prompt _vsbox_status
            set -eg _OLD_FISH_PROMPT_OVERRIDE
        end
        set -eg _VSBOX_ACTIVE
    end
    if test "$argv[1]" != nondestructive
        functions -e deactivate
    end
end

for name in PATH PYTHONHOME VIRTUAL_ENV VIRTUAL_ENV_PROMPT
    # What a parent shell exported under this name is not ours to restore.
    set -eg _OLD_VIRTUAL_$name
    if set -qg $name
        set -g _OLD_VIRTUAL_$name $$name
    end
end
# Globals only: erasing a universal variable would erase it in every session, for good.
set -eg PYTHONHOME
set -g _VSBOX_ACTIVE 1

set -gx VIRTUAL_ENV @ROOT@
set -gx VIRTUAL_ENV_PROMPT @PROMPT@
set -gx PATH @ROOT@/bin $PATH

if test -z "$VIRTUAL_ENV_DISABLE_PROMPT"; and functions -q fish_prompt
    functions -e _old_fish_prompt
    functions -c fish_prompt _old_fish_prompt
    function _vsbox_status
        return $argv[1]
    end
    function fish_prompt
        # The prompt below may show the status of the last command: hand it on.
        set -l last_status $status
        echo -ns @SHOWN@
        _vsbox_status $last_status
        _old_fish_prompt
    end
    set -g _OLD_FISH_PROMPT_OVERRIDE "$VIRTUAL_ENV"
end
