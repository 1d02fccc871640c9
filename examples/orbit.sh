#!/bin/sh
# The period of an orbit by Kepler's third law: T = sqrt(a^3), years and astronomical units.
# Arguments: --planet=NAME --axis=AU. The last line of output is the result, as JSON.
for argument in "$@"; do
    case "$argument" in
        --planet=*) planet=${argument#--planet=} ;;
        --axis=*) axis=${argument#--axis=} ;;
    esac
done
echo "working on $planet" >&2
awk -v a="$axis" 'BEGIN { printf "{\"years\": %.3f}\n", sqrt(a * a * a) }'
