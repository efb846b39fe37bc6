"""The scripts that Redis runs: each as a whole, with nothing of anybody else in between."""

from typing import Final

APPEND: Final = """
-- KEYS: the set of groups, then the streams of one channel. ARGV: '1' where somebody must listen; then for each message
-- the number of its stream, how many fields follow, and the fields. Returns how many were stored, and what stopped it.
if ARGV[1] == '1' and redis.call('SCARD', KEYS[1]) == 0 then
    return {-1, ''}
end
local stored, at = 0, 2
while at <= #ARGV do
    local count = tonumber(ARGV[at + 1])
    local answer = redis.pcall('XADD', KEYS[tonumber(ARGV[at]) + 2], '*', unpack(ARGV, at + 2, at + 1 + count))
    if type(answer) == 'table' and answer.err then
        return {stored, answer.err}
    end
    stored, at = stored + 1, at + 2 + count
end
return {stored, ''}
"""
"""Stops at the first message that is not stored, so that of each key nothing overtakes a failure."""

TRIM: Final = """
-- KEYS: a stream, the set of its channel's groups. Removes what lies before every group's oldest pending entry.
local groups, missing = redis.call('XINFO', 'GROUPS', KEYS[1]), {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    missing[name] = true
end
local function is_before(one, other)
    local one_ms, one_seq = string.match(one, '(%d+)-(%d+)')
    local other_ms, other_seq = string.match(other, '(%d+)-(%d+)')
    if one_ms ~= other_ms then
        return tonumber(one_ms) < tonumber(other_ms)
    end
    return tonumber(one_seq) < tonumber(other_seq)
end
local least = nil
for _, facts in ipairs(groups) do
    local of = {}
    for i = 1, #facts, 2 do
        of[facts[i]] = facts[i + 1]
    end
    missing[of['name']] = nil
    local at = of['last-delivered-id']
    if of['pending'] > 0 then
        at = redis.call('XPENDING', KEYS[1], of['name'])[2]
    end
    if least == nil or is_before(at, least) then
        least = at
    end
end
return (least == nil or next(missing)) and 0 or redis.call('XTRIM', KEYS[1], 'MINID', least)
"""
"""A stream that lacks one of its channel's groups is left alone: that group has still to read it."""
