#!lua name=pushring
-- version 6
--
-- Numbers, keeps and announces the messages of channels. Every node loads this, if the server has none or an older
-- one; so arguments are only ever added behind those that there are, and what is stored keeps its form.
--
-- Of each channel, under BASE = PREFIX:{CHANNEL}, whose braces put all of it into one slot of a cluster:
--   BASE        channel of publish and subscribe: the frame of each message, 'moved', 'ended'
--   BASE:meta   'EPOCH HEAD MS SERVER KEEP'; KEEP is 'MESSAGES AGE_MS IDLE_MS', how long all of it is kept
--   BASE:log    stream of frames, whose ids are MS-OFFSET; MS never decreases
--   BASE:key:K  'POSITION RECEIVERS' of the publish under the idempotency key K
--
-- A frame: '1 EPOCH OFFSET PREVIOUS MICROSECONDS KIND TTL_MS STORED EVENT', a line feed, the payload.

-- How far offsets jump, at the least, where another server numbered last: beyond all that it can have given out and not
-- replicated.
local LOST_POSITIONS_MAX = 1000000000

-- How long a server takes itself for the one it was. Less than any fail-over there and back takes.
local SERVER_CHECK_US = 250000

-- Doubles count exactly up to 2^53.
local OFFSET_MAX = 9000000000000000

-- As the settings are by default, for a channel that no node has told of.
local KEEP, WINDOW_MS = '100 600000 600000', '300000'

-- A log is trimmed by age at every 16th message, and by count in whole nodes of the stream; whoever reads looks away
-- from what is too old or too much.
local TRIM_EVERY = 16

local KEEPS_MAX = 1000

local BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

local KINDS = { json = true, text = true, binary = true }

-- This server as a master without a break, and how it announces. The replication id changes when it becomes one.
local server, announce_command, checked_us

-- It became the master in place of another one, of whose last messages nobody can say whether it has them. The id of
-- the other one is then its second. So it is, too, where a master with replicas has restarted from an RDB file, which
-- lacks whatever was written behind it; from an AOF it takes over from nobody.
local is_heir

-- By text, what each KEEP says: there are as many as namespaces.
local keeps, n_keeps = {}, 0

-- '%d' takes a third of the time of '%.0f', and is right where C's `long` has 64 bits.
local integer_format

local function integer(number)
  return string.format(integer_format, number)
end

local function now_us()
  local time = redis.call('TIME')
  local us = time[1] * 1000000 + time[2]
  if not server or us < checked_us or us - checked_us > SERVER_CHECK_US then
    local info = redis.call('INFO', 'server', 'replication')
    local run = string.match(info, 'run_id:(%w+)')
    local replication = string.match(info, 'master_replid:(%w+)')
    server = string.sub(redis.sha1hex(run .. replication), 1, 16)
    is_heir = string.find(info, 'master_replid2:0*[1-9a-f]') ~= nil
    announce_command = string.find(info, 'redis_mode:cluster', 1, true) and 'SPUBLISH' or 'PUBLISH'
    integer_format = string.format('%d', OFFSET_MAX) == string.format('%.0f', OFFSET_MAX) and '%d' or '%.0f'
    checked_us = us
  end
  return us
end

local function new_epoch(base, us)
  local random = tonumber(string.sub(redis.sha1hex(base .. server .. integer(us)), 1, 12), 16)
  local epoch = ''
  for _ = 1, 8 do
    local digit = random % 62 + 1
    epoch = epoch .. string.sub(BASE62, digit, digit)
    random = math.floor(random / 62)
  end
  return epoch
end

-- What a KEEP says; of none, or of nonsense, what is there by default.
local function parse_keep(text)
  local keep = keeps[text]
  if not keep then
    local messages, age, idle = string.match(text, '^(%d+) (%d+) (%d+)$')
    if not messages then
      return parse_keep(KEEP)
    end
    if n_keeps == KEEPS_MAX then
      keeps, n_keeps = {}, 0
    end
    keep = {
      text = text,
      messages = messages,
      age = age,
      messages_max = tonumber(messages),
      age_ms = tonumber(age),
      lifetime = integer(math.max(tonumber(age), tonumber(idle), 1)),
    }
    keeps[text], n_keeps = keep, n_keeps + 1
  end
  return keep
end

-- The channel's epoch, head, ms, server and KEEP, or nothing.
local function open(base)
  local text = redis.call('GET', base .. ':meta')
  if text then
    return string.match(text, '^(%w+) (%d+) (%d+) (%w+) (.*)$')
  end
end

-- Lets the channel begin again: its epoch, head, ms and server.
local function begin(base, us)
  redis.call('DEL', base .. ':log')
  return new_epoch(base, us), '0', '0', server
end

-- What is numbered up to here by whom it is may have a tail that is not here. Messages that come behind it must not
-- pass for the next ones, so the channel begins again. After a restart, which mostly loses nothing, only those begin
-- again of whose tail somebody knows.
local function may_lack_a_tail(numbered_by)
  return is_heir and numbered_by ~= server
end

local function begin_again(base, us)
  redis.call(announce_command, base, 'moved')
  return begin(base, us)
end

local function write(base, epoch, head, ms, keep)
  local text = epoch .. ' ' .. head .. ' ' .. ms .. ' ' .. server .. ' ' .. keep.text
  redis.call('SET', base .. ':meta', text, 'PX', keep.lifetime)
end

local function set(text)
  return text and text ~= '' and text
end

-- Numbers, keeps and announces payloads[first] and all behind it, which are alike in everything else. Answers the epoch
-- and the offset of the first; the others have the next ones.
local function append(base, kind, event, ttl, is_stored, keep_text, payloads, first)
  local us = now_us()
  local epoch, previous, ms, numbered_by, kept = open(base)
  if not epoch then
    epoch, previous, ms, numbered_by = begin(base, us)
  elseif may_lack_a_tail(numbered_by) then
    epoch, previous, ms, numbered_by = begin_again(base, us)
  end
  local count, offset = #payloads - first + 1, tonumber(previous) + 1
  if numbered_by ~= server then
    -- Two servers that leap from one place, neither of which knows of the other, must not land in one: each leaps to
    -- its time, which numbers do not catch up with below a million messages a second.
    offset = us > offset and us or offset + LOST_POSITIONS_MAX + us % LOST_POSITIONS_MAX
  end
  local head = offset + count - 1
  if head > OFFSET_MAX then
    epoch, previous, ms = begin_again(base, us)
    offset, head = 1, count
  end
  local keep = parse_keep(keep_text or kept or KEEP)
  local now_ms = math.max(math.floor(us / 1000), tonumber(ms))
  ms = integer(now_ms)
  write(base, epoch, integer(head), ms, keep)

  is_stored = is_stored and keep.messages_max > 0 and keep.age_ms > 0 and ttl ~= '0'
  local log = base .. ':log'
  local rest = ' ' .. integer(us) .. ' ' .. kind .. ' ' .. (ttl or '-') .. (is_stored and ' 1 ' or ' 0 ')
    .. event .. '\n'
  for i = 0, count - 1 do
    local own = integer(offset + i)
    local frame = '1 ' .. epoch .. ' ' .. own .. ' ' .. previous .. rest .. payloads[first + i]
    if is_stored then
      redis.call('XADD', log, 'MAXLEN', '~', keep.messages, ms .. '-' .. own, 'm', frame)
    end
    redis.call(announce_command, base, frame)
    previous = own
  end
  if is_stored then
    if head % TRIM_EVERY < count then
      redis.call('XTRIM', log, 'MINID', integer(math.max(now_ms - keep.age_ms, 0)))
    end
    redis.call('PEXPIRE', log, keep.age)
  end
  return epoch, offset
end

-- FCALL pushring_publish 1 BASE PAYLOAD [KIND [EVENT [TTL_MS [STORE [KEY]]]]]; an empty argument is as good as none.
-- KIND is json, text or binary; STORE is 0 or 1; KEY makes a repeat harmless. Answers POSITION and RECEIVERS.
-- Nodes go on: RECEIVERS WINDOW_MS KEEP.
local function publish(keys, args)
  local base, payload, kind, event = keys[1], args[1], set(args[2]) or 'text', args[3] or ''
  local ttl, key = set(args[4]), set(args[6])
  if not payload or string.sub(base, -1) ~= '}' then
    return redis.error_reply('ERR give 1 key, PREFIX:{CHANNEL}, and a payload')
  end
  if not KINDS[kind] then
    return redis.error_reply('ERR the kind is json, text or binary')
  end
  if ttl and not string.find(ttl, '^%d+$') then
    return redis.error_reply('ERR the ttl is in milliseconds')
  end
  if event ~= '' and string.find(event, '[%z\r\n]') then
    return redis.error_reply('ERR the event name is one line')
  end

  local first = key and redis.call('GET', base .. ':key:' .. key)
  if first then
    local position, receivers = string.match(first, '^(%S+) (%d+)$')
    return { position, tonumber(receivers) }
  end

  local epoch, offset = append(base, kind, event, ttl, args[5] ~= '0', args[9], { payload }, 1)
  local position, receivers = epoch .. '-' .. integer(offset), tonumber(args[7]) or 0
  if key then
    redis.call('SET', base .. ':key:' .. key, position .. ' ' .. integer(receivers), 'PX', args[8] or WINDOW_MS)
  end
  return { position, receivers }
end

-- FCALL pushring_publish_run 1 BASE KIND EVENT TTL_MS STORE KEEP PAYLOAD..., as nodes call it, who have checked all of
-- it: what has come together on one channel, and has no KEY. Answers the POSITION of the first; the others follow it.
local function publish_run(keys, args)
  local epoch, offset = append(keys[1], args[1], args[2], set(args[3]), args[4] ~= '0', args[5], args, 6)
  return epoch .. '-' .. integer(offset)
end

-- The frames behind `offset`, oldest first; all of them, if it is nil. Nothing, if `offset` is one that was lost: a
-- message in whose way it would have been says that another came before.
local function behind(base, us, keep, head, offset)
  if keep.messages_max == 0 then
    return {}
  end
  local oldest_ms = integer(math.max(math.floor(us / 1000) - keep.age_ms, 0))
  local count = integer(math.min(head - (offset or 0), keep.messages_max))
  local entries = redis.call('XREVRANGE', base .. ':log', '+', oldest_ms, 'COUNT', count)
  local frames = {}
  for i = #entries, 1, -1 do
    local frame = entries[i][2][2]
    if #frames == 0 and offset then
      local own, previous = string.match(frame, '^%d+ %w+ (%d+) (%d+) ')
      own, previous = tonumber(own), tonumber(previous)
      if previous < offset and offset < own then
        return nil
      end
      if own > offset then
        frames[1] = frame
      end
    else
      frames[#frames + 1] = frame
    end
  end
  return frames
end

-- FCALL pushring_read 1 BASE POSITION [KEEP [HEAD_ONLY]]. Answers the head's position and, unless HEAD_ONLY is 1, the
-- frames.
local function read(keys, args)
  local base, us = keys[1], now_us()
  local epoch, head, ms, numbered_by, kept = open(base)
  local is_dirty = not epoch
  if is_dirty then
    epoch, head, ms, numbered_by = begin(base, us)
  end
  local keep = parse_keep(args[2] or kept or KEEP)
  local wanted_epoch, offset = string.match(args[1] or '', '^(%w+)-(%d+)$')
  offset = wanted_epoch == epoch and tonumber(offset) or nil

  local frames, newest = {}, tonumber(head)
  local is_lost = may_lack_a_tail(numbered_by)
  if offset and offset > newest then
    -- What this server has numbered, it has: a position beyond was never given out. Another's may be lost.
    is_lost = numbered_by ~= server
    offset = nil
  end
  if not is_lost and newest > 0 and offset ~= newest then
    frames = behind(base, us, keep, newest, offset)
    is_lost = not frames
  end
  if is_lost then
    frames, epoch, head, ms = {}, begin_again(base, us)
  end
  if is_dirty or is_lost then
    write(base, epoch, head, ms, keep)
  else
    redis.call('PEXPIRE', base .. ':meta', keep.lifetime)
  end
  return { epoch .. '-' .. head, args[3] == '1' and {} or frames }
end

-- FCALL pushring_heir 0. Answers who this server is, if it took over from another one: a channel that another one has
-- numbered is then to be read by the function.
local function heir()
  now_us()
  return is_heir and server or ''
end

-- FCALL pushring_delete 1 BASE. Answers 1, or 0 if there was no such channel.
local function delete(keys)
  local base = keys[1]
  local is_there = redis.call('DEL', base .. ':meta', base .. ':log') > 0
  if is_there then
    now_us()
    redis.call(announce_command, base, 'ended')
  end
  return is_there and 1 or 0
end

redis.register_function('pushring_publish', publish)
redis.register_function('pushring_publish_run', publish_run)
redis.register_function({ function_name = 'pushring_read', callback = read, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'pushring_heir', callback = heir, flags = { 'no-writes' } })
redis.register_function({ function_name = 'pushring_delete', callback = delete, flags = { 'allow-oom' } })
