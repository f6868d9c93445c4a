# Use it with ". bin/Activate.ps1" from PowerShell.
# Only cmdlets below: nothing here may be looked up on PATH.

# Another environment that is active goes first, by its own function (never by a command).
if ((Test-Path -LiteralPath Env:VIRTUAL_ENV) -and (Test-Path -LiteralPath Function:deactivate)) {
    deactivate -NonDestructive
}

# The _OLD_VIRTUAL_* names are those of other environments' scripts, which restore from them
# when they are activated on top of this one.
function global:deactivate ([switch] $NonDestructive) {
    if (Test-Path -LiteralPath Variable:global:_VSBOX_ACTIVE) {
        foreach ($name in 'PATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'VIRTUAL_ENV_PROMPT') {
            if (Test-Path -LiteralPath "Env:_OLD_VIRTUAL_$name") {
                Copy-Item -LiteralPath "Env:_OLD_VIRTUAL_$name" -Destination "Env:$name"
                Remove-Item -LiteralPath "Env:_OLD_VIRTUAL_$name"
            } elseif (Test-Path -LiteralPath "Env:$name") {
                Remove-Item -LiteralPath "Env:$name"
            }
        }
        if (Test-Path -LiteralPath Function:_OLD_VIRTUAL_PROMPT) {
            Copy-Item -LiteralPath Function:_OLD_VIRTUAL_PROMPT -Destination Function:global:prompt
            Remove-Item -LiteralPath Function:_OLD_VIRTUAL_PROMPT
        }
        Remove-Variable -Name _VSBOX_ACTIVE -Scope Global
    }
    if (-not $NonDestructive) {
        Remove-Item -LiteralPath Function:deactivate
    }
}

foreach ($name in 'PATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'VIRTUAL_ENV_PROMPT') {
    # What a parent shell exported under this name is not ours to restore.
    if (Test-Path -LiteralPath "Env:_OLD_VIRTUAL_$name") {
        Remove-Item -LiteralPath "Env:_OLD_VIRTUAL_$name"
    }
    if (Test-Path -LiteralPath "Env:$name") {
        Copy-Item -LiteralPath "Env:$name" -Destination "Env:_OLD_VIRTUAL_$name"
    }
}
if (Test-Path -LiteralPath Env:PYTHONHOME) {
    Remove-Item -LiteralPath Env:PYTHONHOME
}
$global:_VSBOX_ACTIVE = $true

$env:VIRTUAL_ENV = @ROOT@
$env:VIRTUAL_ENV_PROMPT = @PROMPT@
# No colon after it when PATH was empty: an empty entry means the current directory.
if ($env:PATH) {
    $env:PATH = $env:VIRTUAL_ENV + '/bin:' + $env:PATH
} else {
    $env:PATH = $env:VIRTUAL_ENV + '/bin'
}

if (-not $env:VIRTUAL_ENV_DISABLE_PROMPT) {
    Copy-Item -LiteralPath Function:prompt -Destination Function:global:_OLD_VIRTUAL_PROMPT
    function global:prompt {
        Write-Host -NoNewline -Object @SHOWN@
        _OLD_VIRTUAL_PROMPT
    }
}
