# Use it with "source bin/activate.csh" from csh or tcsh.
# Only builtins below: nothing here may be looked up on PATH.

# Another environment that is active goes first. Of other makers' environments we undo what their
# scripts record instead of calling their alias, which may look up commands.
if ( $?_vsbox_restore ) then
    eval "${_vsbox_restore:q}"
else if ( $?VIRTUAL_ENV && $?_OLD_VIRTUAL_PATH ) then
    setenv PATH "${_OLD_VIRTUAL_PATH:q}"
    if ( $?_OLD_VIRTUAL_PROMPT ) then
        set prompt = "${_OLD_VIRTUAL_PROMPT:q}"
        unset _OLD_VIRTUAL_PROMPT
    endif
    unsetenv VIRTUAL_ENV
    unsetenv VIRTUAL_ENV_PROMPT
endif

# csh has no functions, and expands variables of a one-line "if" even when it is false. So what is to
# be done is put together now, and the alias only has to carry it out. (Names end at 30 letters.)
set _vsbox_restore = ''
if ( $?PATH ) then
    set _OLD_VIRTUAL_PATH = "${PATH:q}"
    set _vsbox_restore = "${_vsbox_restore:q}"'setenv PATH "${_OLD_VIRTUAL_PATH:q}"; unset _OLD_VIRTUAL_PATH; '
else
    set _vsbox_restore = "${_vsbox_restore:q}"'unsetenv PATH; '
endif
if ( $?PYTHONHOME ) then
    set _OLD_VIRTUAL_PYTHONHOME = "${PYTHONHOME:q}"
    set _vsbox_restore = "${_vsbox_restore:q}"'setenv PYTHONHOME "${_OLD_VIRTUAL_PYTHONHOME:q}"; unset _OLD_VIRTUAL_PYTHONHOME; '
    unsetenv PYTHONHOME
else
    set _vsbox_restore = "${_vsbox_restore:q}"'unsetenv PYTHONHOME; '
endif
if ( $?VIRTUAL_ENV ) then
    set _OLD_VIRTUAL_ENV = "${VIRTUAL_ENV:q}"
    set _vsbox_restore = "${_vsbox_restore:q}"'setenv VIRTUAL_ENV "${_OLD_VIRTUAL_ENV:q}"; unset _OLD_VIRTUAL_ENV; '
else
    set _vsbox_restore = "${_vsbox_restore:q}"'unsetenv VIRTUAL_ENV; '
endif
if ( $?VIRTUAL_ENV_PROMPT ) then
    set _OLD_VIRTUAL_ENV_PROMPT = "${VIRTUAL_ENV_PROMPT:q}"
    set _vsbox_restore = "${_vsbox_restore:q}"'setenv VIRTUAL_ENV_PROMPT "${_OLD_VIRTUAL_ENV_PROMPT:q}"; unset _OLD_VIRTUAL_ENV_PROMPT; '
else
    set _vsbox_restore = "${_vsbox_restore:q}"'unsetenv VIRTUAL_ENV_PROMPT; '
endif

setenv VIRTUAL_ENV @ROOT@
setenv VIRTUAL_ENV_PROMPT @PROMPT@
if ( $?PATH ) then
    setenv PATH @ROOT@/bin:"${PATH:q}"
else
    setenv PATH @ROOT@/bin
endif

set _vsbox_show = $?prompt
if ( $?VIRTUAL_ENV_DISABLE_PROMPT ) then
    if ( "${VIRTUAL_ENV_DISABLE_PROMPT:q}" != '' ) set _vsbox_show = 0
endif
if ( $_vsbox_show ) then
    set _OLD_VIRTUAL_PROMPT = "${prompt:q}"
    set prompt = @SHOWN@"${prompt:q}"
    set _vsbox_restore = "${_vsbox_restore:q}"'set prompt = "${_OLD_VIRTUAL_PROMPT:q}"; unset _OLD_VIRTUAL_PROMPT; '
endif
unset _vsbox_show

alias deactivate 'eval "${_vsbox_restore:q}"; set _vsbox_restore = ""; rehash; if ( "\!:*" != nondestructive ) unset _vsbox_restore; if ( "\!:*" != nondestructive ) unalias deactivate'

rehash
