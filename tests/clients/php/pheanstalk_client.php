<?php
// Every call of Pheanstalk (Debian's php-pda-pheanstalk), against the server on DJQS_PORT.
declare(strict_types=1);

require '/usr/share/php/Pheanstalk/autoload.php';

use Pheanstalk\Pheanstalk;

function check(string $what, $seen, $expected): void
{
    if ($seen !== $expected) {
        throw new Exception("$what: " . var_export($seen, true) . ', not ' . var_export($expected, true));
    }
}

function refused(callable $call): void
{
    try {
        $call();
    } catch (\Pheanstalk\Exception $expected) {
        return;
    }
    throw new Exception('it should have been refused');
}

$client = Pheanstalk::create('127.0.0.1', (int) getenv('DJQS_PORT'));
$watched = fn () => array_values($client->listTubesWatched(true));
check('used', $client->listTubeUsed(true), 'default');
check('watched', $watched(), ['default']);
$client->useTube('mail')->watch('mail')->ignore('default');
check('used', [$client->listTubeUsed(), $client->listTubeUsed(true)], ['mail', 'mail']);
check('watched', [array_values($client->listTubesWatched()), $watched()], [['mail'], ['mail']]);
check('tubes', $client->listTubes(), ['default', 'mail']);
refused(fn () => $client->ignore('mail'));

$first = $client->put('first', 5, 0, 100);
$second = $client->put("second\r\n\0", 4);
$third = $client->put('third', 4, 100);
check('ids', [$first->getId(), $second->getId(), $third->getId()], [1, 2, 3]);
refused(fn () => $client->put(str_repeat('x', 65536)));

$job = $client->reserve();
check('reserve', [$job->getId(), $job->getData()], [2, "second\r\n\0"]);
$client->touch($job);
$client->release($job, 9, 0);
$job = $client->reserveWithTimeout(5);
check('reserve', $job->getId(), 1);
$client->bury($job, 3);
check('buried', $client->peekBuried()->getId(), 1);
check('kick', $client->kick(10), 1);
check('delayed', $client->peekDelayed()->getData(), 'third');
$client->kickJob($third);
refused(fn () => $client->kickJob($third));
check('ready', $client->peekReady()->getId(), 1);
check('peek', $client->peek($third)->getData(), 'third');
check('nothing', [$client->peekDelayed(), $client->peekBuried()], [null, null]);

// This version takes the quotes around a string for a part of it, with beanstalkd 1.13 as here.
$plain = fn (string $text) => trim($text, '"');
$stats = $client->statsJob($first);
check('job', [$stats['id'], $plain($stats['tube']), $stats['state'], $stats['pri']], ['1', 'mail', 'ready', '3']);
check('counts', [$stats['reserves'], $stats['buries'], $stats['kicks']], ['1', '1', '1']);
check('tube', $client->statsTube('mail')['current-jobs-ready'], '3');
check('name', $plain($client->statsTube('mail')['name']), 'mail');
check('server', $client->stats()['total-jobs'], '3');
refused(fn () => $client->statsTube('nothing'));

$client->pauseTube('mail', 60);
check('paused', $client->reserveWithTimeout(0), null);
$client->resumeTube('mail');
check('resumed', $client->reserveWithTimeout(0)->getId(), 1);
foreach ([$first, $second, $third] as $job) {
    $client->delete($job);
}
refused(fn () => $client->delete($first));

// For a while only: its withWatchedTube leaves the order of the list to chance, so one tube is enough here.
$client->withUsedTube('other', fn ($client) => $client->put('elsewhere'));
$job = $client->withWatchedTube('other', fn ($client) => $client->reserve());
check('elsewhere', $job->getData(), 'elsewhere');
check('as before', $client->listTubeUsed(true), 'mail');
$client->watchOnly('other');
check('only', $watched(), ['other']);
$client->delete($job);
$client->useTube('other')->put('soon', 0, 0, 1);
$client->reserve();
refused(fn () => $client->reserveWithTimeout(5));
echo "Pheanstalk: every call\n";
