# What code inside may touch, as the outside half wrote it down.
if (Test-Path -PathType Leaf -LiteralPath ($env:VIRTUAL_ENV + '/sandbox/summary.txt')) {
    Get-Content -Encoding utf8 -LiteralPath ($env:VIRTUAL_ENV + '/sandbox/summary.txt')
}
